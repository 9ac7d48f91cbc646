//go:build unix

package wire

import "syscall"

// writeOnce writes what a socket takes at once.
func writeOnce(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
