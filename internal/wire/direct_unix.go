//go:build unix

package wire

import "syscall"

// writeOnce writes what a socket takes at once.
func writeOnce(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }

// hasUnread reports whether a read of a socket would return bytes.
func hasUnread(fd uintptr) bool {
	n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err == nil && n > 0
}
