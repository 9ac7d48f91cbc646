//go:build unix

package drivertest

import (
	"os"
	"os/exec"
	"syscall"
)

// stopSignal stops a process until it is killed.
const stopSignal = int(syscall.SIGSTOP)

func signalSelf(signal int) error { return syscall.Kill(os.Getpid(), syscall.Signal(signal)) }

func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
