package local

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// agentControlFD is init's control socket. Its number differs from init's because init's own descriptor closes when
// it executes.
const agentControlFD = initConnFD

// runAgent is process 1 of a sandbox from the worker's start on, with the worker's lack of privileges. It returns, and
// with it every process of the sandbox ends, when the worker ends or the launcher is gone. Its one goroutine waits for
// the latter and ends with the process.
func runAgent() error {
	// The worker is the same user: keep it from reading or tracing this process.
	if err := prctl(unix.PR_SET_DUMPABLE, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := closeOnExecFrom(controlFD); err != nil {
		return err
	}
	signal.Ignore(survived()...)
	if len(os.Args) != 3 {
		return fmt.Errorf("agent has %d arguments, want a name and the worker's process id", len(os.Args)-1)
	}
	worker, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	conn, err := asConn(os.NewFile(agentControlFD, "control"))
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, conn) // the launcher has nothing more to say: this ends when it does
		syscall.Exit(0)
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case pid == worker:
			return send(conn, event{Kind: eventExited, Exited: true, Exit: uint32(status)})
		}
	}
}

// survived are the signals that a worker can send to process 1, and that are not to end it: a worker that signals every
// process it can is to end by itself, with its status reported. The kernel keeps SIGKILL and SIGSTOP from it; the children's
// ends are what it waits for, and the runtime uses SIGURG.
func survived() []os.Signal {
	var signals []os.Signal
	for number := syscall.Signal(1); number <= 64; number++ {
		switch number {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG:
		default:
			signals = append(signals, number)
		}
	}
	return signals
}
