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
	// A worker that signals every process it can is to end by itself, with its status reported.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
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
