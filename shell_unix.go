//go:build unix

package sbx

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sizeSignals say that the terminal's size has changed, or may have, while this program was stopped.
var sizeSignals = []os.Signal{syscall.SIGWINCH, syscall.SIGCONT}

// keys reads a terminal until it is ended, and takes no key after that: the next is for whoever reads next.
type keys struct {
	file       *os.File
	wake, woke *os.File // a pipe that end closes
	once       sync.Once
}

func newKeys(file *os.File) (*keys, error) {
	woke, wake, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &keys{file: file, wake: wake, woke: woke}, nil
}

func (k *keys) Read(p []byte) (int, error) {
	poll := []unix.PollFd{{Fd: int32(k.file.Fd()), Events: unix.POLLIN}, {Fd: int32(k.woke.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(poll, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case poll[1].Revents != 0:
			return 0, io.EOF
		default:
			return k.file.Read(p)
		}
	}
}

// end ends the reading.
func (k *keys) end() { k.once.Do(func() { _ = k.wake.Close() }) }

// close frees what keys has. Nothing may read any more.
func (k *keys) close() {
	k.end()
	_ = k.woke.Close()
}
