package agent_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/internal/agent"
)

// written notes what each write has.
type written struct {
	io.ReadCloser
	writes []string
}

func (w *written) Write(p []byte) (int, error) {
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func TestJoined(t *testing.T) {
	data, empty, update := []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04"), []byte("\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00"), []byte("\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04")
	var w written
	joined := agent.Joined(&w)
	for _, p := range [][]byte{update, data, []byte("body"), empty, data, bytes.Repeat([]byte{0}, 12), update} {
		n, err := joined.Write(p)
		require.NoError(t, err)
		assert.Equal(t, len(p), n)
	}
	assert.Equal(t, []string{string(update), string(data) + "body", string(empty), string(data) + string(make([]byte, 12)), string(update)}, w.writes)
}
