//go:build unix

package drivertest

import (
	"os"
	"os/exec"
	"syscall"
)

func signalSelf(signal int) error { return syscall.Kill(os.Getpid(), syscall.Signal(signal)) }

func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
