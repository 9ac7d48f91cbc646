//go:build !linux

package worker

import "syscall"

// dieWithWorker does nothing: this system has no such signal.
func dieWithWorker(*syscall.SysProcAttr) {}

// awaitExit waits for a command's end. Its group can't be signalled after that.
func awaitExit(c *command) { c.reap() }

// onlyZombies is not known here.
func onlyZombies(int) bool { return false }
