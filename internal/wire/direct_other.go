//go:build !unix

package wire

import "syscall"

// writeOnce leaves everything to Finish.
func writeOnce(uintptr, []byte) (int, error) { return 0, syscall.EAGAIN }

// hasUnread does not know.
func hasUnread(uintptr) bool { return false }
