package local

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What process 1 says last is heard, although it dies with messages unread.
func TestTheLastMessageOfTheDead(t *testing.T) {
	a, b, err := socketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	ours, err := asConn(a)
	require.NoError(t, err)
	defer ours.Close()
	theirs, err := asConn(b)
	require.NoError(t, err)
	require.NoError(t, send(ours, orders{Name: "unread"}))
	require.NoError(t, send(theirs, event{Kind: eventFailed, Step: "last"}))
	require.NoError(t, theirs.Close())
	var e event
	_, err = receive(ours, &e, maxEvent)
	require.NoError(t, err)
	assert.Equal(t, "last", e.Step)
	_, err = receive(ours, &e, maxEvent)
	require.ErrorIs(t, err, io.EOF)
}
