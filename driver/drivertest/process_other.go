//go:build !unix

package drivertest

import (
	"errors"
	"os/exec"
)

func signalSelf(int) error { return errors.ErrUnsupported }

func leaveGroup(*exec.Cmd) {}
