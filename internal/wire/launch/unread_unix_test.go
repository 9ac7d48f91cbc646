//go:build unix

package launch

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// endedProcess has ended.
type endedProcess struct{ driver.Process }

func (endedProcess) Wait(context.Context) (driver.Exit, error) { return driver.Exit{}, nil }

func TestWhatAWorkerSentIsReadBeforeItsConnectionIsClosed(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(file)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		defer ends[i].Close()
	}
	direct, err := wire.NewDirect(ends[0])
	require.NoError(t, err)
	conn := wire.NewConn(direct, nil)
	defer func() {
		conn.Close()
		<-conn.Stopped()
	}()
	closed := make(chan struct{})
	w := &Worker{process: endedProcess{}, conn: conn, closeConn: func() { close(closed) }}
	sent := []byte("a frame")
	_, err = ends[1].Write(sent) // and the other end stays open
	require.NoError(t, err)
	go w.followProcess(t.Context())
	select {
	case <-closed:
		assert.Fail(t, "it was closed before that was read")
	case <-time.After(3 * settleTime):
	}
	_, err = ends[0].Read(sent)
	require.NoError(t, err)
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		assert.Fail(t, "it stays open")
	}
}
