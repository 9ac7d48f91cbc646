package wire

import (
	"bytes"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// discard is a connection that takes everything, but of each write only so much as its limit says.
type discard struct {
	net.Conn
	limit int
}

func (d *discard) Write(p []byte) (int, error) {
	if len(p) > d.limit {
		return d.limit, net.ErrClosed
	}
	return len(p), nil
}

// FuzzMeter compares the meter, which sees bytes in pieces of any length, with an HTTP/2 framer that reads them whole.
func FuzzMeter(f *testing.F) {
	f.Add([]byte{0, 200, 0, 5, 0, 0, 4, 6, 0, 1}, []byte{1, 2, 9, 40})
	f.Add([]byte{0, 255, 0, 255, 255, 9}, []byte{255, 3})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, frames, pieces []byte) {
		var sent bytes.Buffer
		framer := http2.NewFramer(&sent, nil)
		want := 0
		for i := 0; i+1 < len(frames); i += 2 { // a type and a length each
			kind, body, stream := http2.FrameType(frames[i]), bytes.Repeat(frames[i:i+1], 99*int(frames[i+1])), uint32(i/2%3)
			require.NoError(t, framer.WriteRawFrame(kind, 0xff, stream, body))
			if kind == http2.FrameData && stream == firstStream {
				want += len(body)
			}
		}
		m := NewMeter(&discard{limit: sent.Len()})
		for _, length := range pieces {
			_, err := m.Write(sent.Next(int(length)))
			require.NoError(t, err)
		}
		_, err := m.Write(sent.Bytes())
		require.NoError(t, err)
		assert.EqualValues(t, want, m.data)
		assert.True(t, m.wait(m.data))
	})
}

func TestAMeterEndsItsWaits(t *testing.T) {
	m := NewMeter(&discard{limit: 12})
	_, err := m.Write([]byte{0, 0, 100, 0, 0, 0, 0, 0, 1, 'a', 'b', 'c', 'd'})
	require.ErrorIs(t, err, net.ErrClosed)
	assert.EqualValues(t, 3, m.data, "what was not written does not count")
	assert.False(t, m.wait(100))
}
