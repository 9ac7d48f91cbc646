//go:build unix

package worker

import (
	"errors"
	"os"
	"syscall"

	"github.com/creack/pty"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// nonblock keeps the opening of a pipe from waiting.
const nonblock = syscall.O_NONBLOCK

// ownGroup has a command lead a session, and so a process group, of its own.
func ownGroup() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setsid: true}
	dieWithWorker(attributes)
	return attributes
}

// signalGroup signals the group that the process leads.
func signalGroup(process *os.Process, signal syscall.Signal) error {
	err := syscall.Kill(-process.Pid, signal)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// openTerminal makes a terminal of that size.
func openTerminal(size *wirepb.Size) (ours, theirs *os.File, err error) {
	ours, theirs, err = pty.Open()
	if err != nil {
		return nil, nil, &os.PathError{Op: "open a terminal", Path: "/dev/ptmx", Err: err}
	}
	if err := resize(ours, size); err != nil {
		_, _ = ours.Close(), theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// controlTerminal makes standard input the command's controlling terminal.
func controlTerminal(attributes *syscall.SysProcAttr) { attributes.Setctty, attributes.Ctty = true, 0 }

func resize(terminal *os.File, size *wirepb.Size) error {
	return pty.Setsize(terminal, &pty.Winsize{Rows: uint16(size.GetRows()), Cols: uint16(size.GetColumns())})
}
