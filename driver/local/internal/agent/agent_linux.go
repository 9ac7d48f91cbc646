// Package agent is process 1 of a sandbox from the worker's start on. Its audience is package setup, which becomes it, or, where that has threads which
// have kept privileges, executes the program once more as it.
//
// It imports next to nothing, so that its init function runs, and takes the process over, before most of the program's packages are
// initialised: that would cost each start of a sandbox milliseconds.
package agent

import (
	"slices"
	"strconv"
	"syscall"
	"unsafe"
)

// Variable is the one variable of the agent's environment. It has the worker's process id, by which this process is the agent.
const Variable = "SBX_LOCAL_AGENT"

// ControlFD is the socket on which the agent reports.
const ControlFD = 4

// What the agent reports, as driver/local's messages of its control sockets have it.
const (
	startedMessage = `{"kind":"started"}`
	exitedMessage  = `{"kind":"exited","exited":true,"exit":` // and the wait status
)

func init() {
	text, ok := syscall.Getenv(Variable)
	if !ok {
		return
	}
	worker, err := strconv.Atoi(text)
	if err == nil {
		err = Serve(worker)
	}
	if err != nil {
		_, _ = syscall.Write(syscall.Stderr, []byte("sbx: agent: "+err.Error()+"\n"))
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

// Serve reports the worker's start and end. It has the worker's lack of privileges. It returns, and with it every process of the sandbox
// ends, when the worker ends or the launcher is gone. Its one goroutine waits for the latter and ends with the process.
func Serve(worker int) error {
	// The worker is the same user: keep it from reading or tracing this process.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		return errno
	}
	if err := IgnoreAllSignals(); err != nil {
		return err
	}
	if err := send(startedMessage); err != nil {
		return err
	}
	go func() {
		// The launcher has nothing more to say: this ends when it does.
		for {
			if n, err := syscall.Read(ControlFD, make([]byte, 1)); n <= 0 && err != syscall.EINTR {
				syscall.Exit(0)
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case pid == worker:
			return send(exitedMessage + strconv.FormatUint(uint64(uint32(status)), 10) + "}")
		}
	}
}

// send writes one message, which is one packet.
func send(message string) error {
	for {
		_, err := syscall.Write(ControlFD, []byte(message))
		if err != syscall.EINTR {
			return err
		}
	}
}

// LastSignal is the greatest number of a signal.
const LastSignal = 64

// IgnoreAllSignals has the kernel ignore every signal that can be sent to this process, however it is sent, but for those given. So a worker
// that signals every process it can ends by itself, with its status reported. (But while an executed agent's runtime begins, with handlers of its own,
// any signal can end it. So nothing is told of the worker's start before.) os/signal would not do: the runtime keeps its handlers of faults, and ends the process if one is sent to it. Nor would no
// handlers do, which protect process 1, too: not while one of its threads runs another handler, with all signals blocked.
func IgnoreAllSignals(but ...syscall.Signal) error {
	// The kernel keeps the first from process 1 in any case. The last is ignored by default, and so leaves statuses to wait for.
	but = append(but, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT, syscall.SIGCHLD)
	for number := syscall.Signal(1); number <= LastSignal; number++ {
		if slices.Contains(but, number) {
			continue
		}
		if err := IgnoreSignal(number); err != nil {
			return err
		}
	}
	return nil
}

// IgnoreSignal has the kernel ignore signals that are sent to this process. Programs that it starts by package syscall have their defaults.
func IgnoreSignal(numbers ...syscall.Signal) error {
	ignore := [4]uint64{1} // struct sigaction of the kernel, with SIG_IGN
	for _, number := range numbers {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}
