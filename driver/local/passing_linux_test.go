package local_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

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

// lingerTime is longer than anything here may take.
const lingerTime = 15

// workerLingers passes a socket with data that nobody takes, which waits for that when it is closed, and then the socket that could take it.
func workerLingers() int {
	err := func() error {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		full, err := net.Dial("tcp4", listener.Addr().String())
		if err != nil {
			return err
		}
		deaf, err := listener.Accept()
		if err != nil {
			return err
		}
		lingers := full.(*net.TCPConn).SetLinger(lingerTime)
		if err := full.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := full.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it can be written: %w", err)
		}
		conn, err := net.FileConn(os.NewFile(driver.ConnFD, "conn"))
		if err != nil {
			return err
		}
		for _, passed := range []net.Conn{full, deaf} {
			file, err := passed.(*net.TCPConn).File()
			if err != nil {
				return err
			}
			if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte{'x'}, unix.UnixRights(int(file.Fd())), nil); err != nil {
				return err
			}
		}
		return lingers
	}()
	fmt.Println(err)
	return 0
}

// The last to close a socket is the kernel, on behalf of the session that does not receive it.
func TestAPassedSocketDoesNotHoldTheSession(t *testing.T) {
	session := open(t)
	_, p := start(t, session, "one", "lingers")
	out, err := io.ReadAll(p.Stdout())
	require.NoError(t, err)
	assert.Contains(t, string(out), "operation not permitted")
	_, err = p.Wait(testContext(t))
	require.NoError(t, err)
	begun := time.Now()
	data, err := io.ReadAll(p.Conn())
	require.NoError(t, err)
	assert.Len(t, data, 2)
	closeStreams(p)
	assert.Less(t, time.Since(begun), lingerTime*time.Second/2)
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
