//go:build unix

package sbx_test

import (
	"errors"
	"os"
	"syscall"
)

// closeConn cuts every socket that this process has, the worker's connection with its session among them.
func closeConn() error {
	err := errors.New("no socket was found")
	for fd := 3; fd < 64; fd++ {
		if syscall.Shutdown(fd, syscall.SHUT_RDWR) == nil {
			err = nil
		}
	}
	return err
}

// stopSelf stops this process as a debugger would.
func stopSelf() error { return syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
