package control

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What process 1 says last is heard, although it dies with messages unread.
func TestTheLastMessageOfTheDead(t *testing.T) {
	a, b, err := SocketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	ours, err := Conn(a)
	require.NoError(t, err)
	defer ours.Close()
	theirs, err := Conn(b)
	require.NoError(t, err)
	require.NoError(t, Send(ours, Orders{Name: "unread"}))
	require.NoError(t, Send(theirs, Event{Kind: EventFailed, Step: "last"}))
	require.NoError(t, theirs.Close())
	var e Event
	_, err = Receive(ours, &e, MaxEvent)
	require.NoError(t, err)
	assert.Equal(t, "last", e.Step)
	_, err = Receive(ours, &e, MaxEvent)
	require.ErrorIs(t, err, io.EOF)
}
