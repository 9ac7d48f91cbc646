package worker

import (
	"os"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// nonblock is nothing: no path is that of a pipe here.
const nonblock = 0

// ownGroup does nothing: commands have no group here that can be signalled.
func ownGroup() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{}
	dieWithWorker(attributes)
	return attributes
}

// signalGroup kills the process: there are no other signals here.
func signalGroup(process *os.Process, signal syscall.Signal) error {
	if signal != syscall.SIGKILL {
		return refused("signal", "", "this system has no signal but SIGKILL")
	}
	return process.Kill()
}

// groupLives is false: there are no groups here.
func groupLives(int) bool { return false }

func openTerminal(*wirepb.Size) (ours, theirs *os.File, err error) {
	return nil, nil, refused("open a terminal", "", "workers on this system have none")
}

func controlTerminal(*syscall.SysProcAttr) {}

func resize(*os.File, *wirepb.Size) error {
	return refused("resize", "", "workers on this system have no terminals")
}
