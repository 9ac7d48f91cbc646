package local_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// workerPasser sends a descriptor with each byte that it sends on the connection.
func workerPasser() int {
	conn, err := net.FileConn(os.NewFile(driver.ConnFD, "conn"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for range 100 {
		if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte{'x'}, unix.UnixRights(0, 1), nil); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// What a worker passes on its connection is received by nobody: the session reads bytes.
func TestPassedDescriptorsAreNotReceived(t *testing.T) {
	session := open(t)
	before := count(t).Descriptors
	_, p := start(t, session, "one", "passer")
	data, err := io.ReadAll(p.Conn())
	require.NoError(t, err)
	assert.Len(t, data, 100)
	_, err = p.Wait(testContext(t))
	require.NoError(t, err)
	closeStreams(p)
	assert.Equal(t, before, count(t).Descriptors)

	// The control: a reader that asked for them would have them.
	_, p = start(t, session, "two", "passer")
	rights := make([]byte, unix.CmsgSpace(8))
	_, n, _, _, err := p.Conn().(*net.UnixConn).ReadMsgUnix(make([]byte, 1), rights)
	require.NoError(t, err)
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	require.NoError(t, err)
	require.Len(t, messages, 1)
	passed, err := unix.ParseUnixRights(&messages[0])
	require.NoError(t, err)
	assert.Len(t, passed, 2)
	for _, fd := range passed {
		require.NoError(t, unix.Close(fd))
	}
}
