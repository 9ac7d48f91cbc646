//go:build !unix

package drivertest

import (
	"errors"
	"os/exec"
)

const stopSignal = 0

func signalSelf(int) error { return errors.ErrUnsupported }

func leaveGroup(*exec.Cmd) {}
