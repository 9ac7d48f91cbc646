package wire

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// served is what a server sends for messages, cut into frames of HTTP/2.
func served(t testing.TB, piece int, messages ...[]byte) []byte {
	var out bytes.Buffer
	framer := http2.NewFramer(&out, nil)
	require.NoError(t, framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16 << 10}))
	require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 1000)}))
	require.NoError(t, framer.WriteContinuation(1, true, make([]byte, 1000)))
	for _, message := range messages {
		data := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
		for len(data) > 0 {
			n := min(piece, len(data))
			require.NoError(t, framer.WriteData(1, false, data[:n]))
			data = data[n:]
			require.NoError(t, framer.WritePing(false, [8]byte{}))
		}
	}
	return out.Bytes()
}

// feed gives data to a guard in pieces.
func feed(data []byte, piece int) error {
	g := NewGuard(nil)
	for len(data) > 0 {
		n := min(piece, len(data))
		if err := g.check(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func TestAGuardLetsPassWhatGRPCSends(t *testing.T) {
	small, big := make([]byte, 3), make([]byte, MaxFrame)
	for _, piece := range []int{1, 7, 1000, 1 << 30} {
		require.NoError(t, feed(served(t, 16<<10, small, nil, big, small, big), piece))
		require.NoError(t, feed(served(t, 2<<10, big, big), piece), "with small windows")
	}
	many := make([][]byte, 1000)
	require.NoError(t, feed(served(t, 2, many...), 100), "each has pieces of its own")
	require.ErrorContains(t, feed(served(t, 500, big), 100), "too many pieces")
}

// FuzzGuard: however the bytes come, what is thought of them is the same.
func FuzzGuard(f *testing.F) {
	f.Add(served(f, 20, []byte("hello"), nil, make([]byte, 100)), byte(3))
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		assert.Equal(t, feed(data, len(data)), feed(data, int(piece)+1))
	})
}
