package control

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// lastWords are the two sides of a control socket. The other one has sent a message, and has one that it will not read.
func lastWords(t *testing.T) (ours, theirs *os.File) {
	a, b, err := SocketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	ours, err = Conn(a)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ours.Close() })
	theirs, err = Conn(b)
	require.NoError(t, err)
	require.NoError(t, Send(ours, Orders{Name: "unread"}))
	require.NoError(t, Send(theirs, Event{Kind: EventFailed, Step: "last"}))
	return ours, theirs
}

// What process 1 says last is heard, although it dies with messages unread.
func TestTheLastMessageOfTheDead(t *testing.T) {
	ours, theirs := lastWords(t)
	require.NoError(t, theirs.Close())
	var e Event
	_, err := Receive(ours, &e, MaxEvent)
	require.NoError(t, err)
	assert.Equal(t, "last", e.Step)
	_, err = Receive(ours, &e, MaxEvent)
	require.ErrorIs(t, err, io.EOF)
}

// Nor does it matter when it dies: here after its message was found, and before it is taken.
func TestADeathMeanwhile(t *testing.T) {
	ours, theirs := lastWords(t)
	size, err := nextSize(ours)
	require.NoError(t, err)
	require.NoError(t, theirs.Close())
	data, n := make([]byte, size), 0
	require.NoError(t, read(ours, func(fd int) (err error) {
		n, _, err = unix.Recvfrom(fd, data, 0)
		return err
	}))
	assert.Contains(t, string(data[:n]), "last")
}

// A descriptor that can't be waited for is refused, and not taken for one that is closed.
func TestWhatCantBePolledIsNoControlSocket(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	_, err = Conn(file)
	require.ErrorIs(t, err, os.ErrNoDeadline)
	assert.ErrorIs(t, file.Close(), os.ErrClosed)
}
