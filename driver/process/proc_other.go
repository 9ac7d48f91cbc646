//go:build unix && !linux

package process

import "syscall"

// dieWithParent does nothing: a worker sees by its connection that its session's program has ended.
func dieWithParent(*syscall.SysProcAttr) {}

// isZombie knows nothing here.
func isZombie(int) bool { return false }
