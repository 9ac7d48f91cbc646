//go:build unix

package worker

import (
	"errors"
	"os"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

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

// groupLives reports whether a group has processes.
func groupLives(group int) bool { return syscall.Kill(-group, 0) == nil }

// openTerminal makes a terminal of that size.
func openTerminal(size *wirepb.Size) (ours, theirs *os.File, err error) {
	ours, theirs, err = pty.Open()
	if err != nil {
		return nil, nil, &os.PathError{Op: "open a terminal", Path: "/dev/ptmx", Err: err}
	}
	err = resize(ours, size)
	if err == nil { // pty has it wait in system calls, which nothing could interrupt
		err = control(ours, func(fd int) error { return unix.SetNonblock(fd, true) })
	}
	if err != nil {
		_, _ = ours.Close(), theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// controlTerminal makes standard input the command's controlling terminal.
func controlTerminal(attributes *syscall.SysProcAttr) { attributes.Setctty, attributes.Ctty = true, 0 }

func resize(terminal *os.File, size *wirepb.Size) error {
	return control(terminal, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.GetRows()), Col: uint16(size.GetColumns())})
	})
}

// control does something with a file's descriptor, and leaves it as it is otherwise.
func control(file *os.File, do func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := raw.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return err
	}
	return doErr
}
