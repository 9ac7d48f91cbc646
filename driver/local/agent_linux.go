package local

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// agentControlFD is init's control socket. Its number differs from init's because init's own descriptor closes when
// it executes.
const agentControlFD = initConnFD

// runAgent is process 1 of a sandbox from the worker's start on, which it reports, with the worker's lack of privileges. It returns, and
// with it every process of the sandbox ends, when the worker ends or the launcher is gone. Its one goroutine waits for
// the latter and ends with the process.
func runAgent() error {
	// The worker is the same user: keep it from reading or tracing this process.
	if err := prctl(unix.PR_SET_DUMPABLE, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := ignoreSignals(); err != nil {
		return err
	}
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
	if err := send(conn, event{Kind: eventStarted}); err != nil {
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

// ignoreSignals has the kernel ignore every signal that can be sent to this process, however it is sent, but for those given. So a worker
// that signals every process it can ends by itself, with its status reported. (But while the agent's runtime begins, with handlers of its own,
// any signal can end it. So nothing is told of the worker's start before.) os/signal would not do: the runtime keeps its handlers of faults, and ends the process if one is sent to it. Nor would no
// handlers do, which protect process 1, too: not while one of its threads runs another handler, with all signals blocked.
func ignoreSignals(but ...syscall.Signal) error {
	// The kernel keeps the first from process 1 in any case. The last is ignored by default, and so leaves statuses to wait for.
	but = append(but, unix.SIGKILL, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGCHLD)
	ignore := [4]uint64{1} // struct sigaction of the kernel, with SIG_IGN
	for number := syscall.Signal(1); number <= lastSignal; number++ {
		if slices.Contains(but, number) {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
		if errno != 0 {
			return os.NewSyscallError("rt_sigaction", errno)
		}
	}
	return nil
}
