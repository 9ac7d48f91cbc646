//go:build unix

package worker

import "golang.org/x/sys/unix"

// mayWrite is an error if this user may not write to a file.
func mayWrite(path string) error { return unix.Access(path, unix.W_OK) }
