// Package setup is process 1 of a sandbox until it has started the worker; then it is package agent. Its audience is
// driver/local: the launcher starts it, in new namespaces, and it sets up all that belongs to one sandbox, in steps that have names.
//
// Like package agent it takes the process over in its init function. It imports the standard library and little more, so that this happens
// before most of the program's packages are initialised: that would cost each start of a sandbox milliseconds.
package setup

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/agent"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// RoleVariable tells a re-executed program which role to take; the others are driver/local's. Beside it the environment of process 1 may have GOMAXPROCS, and that
// of the launcher and of the fetcher nothing; a worker's never has it.
const RoleVariable = "SBX_LOCAL"

// Role is this package's.
const Role = "init"

// init diverts a re-executed program to its role, which never returns. It runs on the main thread, to which the runtime locks the main goroutine
// during initialisation: privileges belong to threads, and the main thread lives as long as its process.
func init() {
	if os.Getenv(RoleVariable) == Role {
		Exit(Run())
	}
}

// Room is an argument of process 1 that a name takes the place of when it is known.
var Room = strings.Repeat(" ", 200)

// Exit ends a process whose role is over.
func Exit(err error) {
	if err != nil {
		_, _ = os.Stderr.WriteString("sbx: " + err.Error() + "\n")
		syscall.Exit(1)
	}
	// Not os.Exit, which, in programs built with -race, sleeps for a second first.
	syscall.Exit(0)
}

// The descriptors that process 1 has beside its control socket: the worker's.
const (
	ConnFD = control.FD + 1 + iota
	HandshakeFD
	StdoutFD
	StderrFD
	DirectFD
	LedgerFD
)

// Begin is how every process 1 begins. It returns the control socket and what comes first from there. The main thread waits in the system for what comes there: with
// the runtime's poller another thread would, and the two would hand over to each other, which cost a twentieth of a start.
func Begin() (*os.File, control.Preparation, error) {
	var p control.Preparation
	if err := control.CloseOnExec(); err != nil {
		return nil, p, err
	}
	conn := os.NewFile(control.FD, "control")
	_, err := control.Receive(conn, &p, control.MaxMessage)
	return conn, p, err
}

// Await waits for the orders, and gives the worker's descriptors, which come with them, their places.
func Await(conn *os.File) (control.Orders, error) {
	var o control.Orders
	files, err := control.Receive(conn, &o, control.MaxMessage)
	if err != nil {
		return o, err
	}
	defer control.CloseAll(files)
	if len(files) != control.MaxPassed { // this process may have no more, or the machine has none
		return o, syscall.EMFILE
	}
	for i, fd := range files {
		if err := unix.Dup3(fd, ConnFD+i, unix.O_CLOEXEC); err != nil {
			return o, os.NewSyscallError("dup3", err)
		}
	}
	return o, nil
}

// Run is process 1 of a sandbox, born in its namespaces with all capabilities over them and none over the host. It
// finishes the sandbox and gives up every privilege; that may be long before it gets its orders, upon which it starts
// the worker and becomes the agent. Where other threads could not give up theirs it executes itself as the agent, which ends these.
func Run() error {
	// What a service manager sends to all processes is for the program. As in the launcher, but without the goroutine that os/signal has.
	if err := agent.IgnoreSignal(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP); err != nil {
		return os.NewSyscallError("rt_sigaction", err)
	}
	conn, p, err := Begin()
	if err != nil {
		return err
	}
	var kept bool
	if failed, err := Do(append(rootSteps(p.Limits, p.Mounts), privilegeSteps(p, &kept)...)); err != nil {
		return control.Send(conn, control.Failure("", failed, err))
	}
	if p.Probe {
		return control.Send(conn, control.Event{Kind: control.EventStarted})
	}
	o, err := Await(conn)
	if err != nil {
		return control.Send(conn, control.Failure("", "receive the worker's descriptors", err))
	}
	// The worker has the signals' defaults: the runtime sees to it, but not for those of libc.
	if err := agent.IgnoreAllSignals(32, 33, 34); err != nil {
		return os.NewSyscallError("rt_sigaction", err)
	}
	pid, err := startWorker(control.UnpackEnv(o.Env))
	if err != nil {
		return control.Send(conn, control.Failure("", "start the worker", err))
	}
	if kept {
		err = executeAgent(conn, pid, o.Name)
	} else {
		err = becomeAgent(conn, o.Name)
	}
	if err != nil {
		return control.Send(conn, control.Failure("", "become the agent", err))
	}
	return agent.Serve(pid)
}

// TimerSlack is how late timers of process 1 may be, in nanoseconds; it has it from the launcher. While a process is busy, the Go runtime's monitor wakes every
// 20 µs to look after the others, and this makes it a tenth of that: a tenth of what a start costs. Nothing in process 1 waits for a time.
const TimerSlack = 500_000

// workerTimerSlack is what processes have by default.
const workerTimerSlack = 50_000

// startWorker starts the worker, in a session of its own, with exactly its seven descriptors.
func startWorker(env []string) (int, error) {
	null, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(null)
	_ = prctl(unix.PR_SET_TIMERSLACK, workerTimerSlack) // as for the launcher, whose it is otherwise
	return syscall.ForkExec(WorkerPath, []string{WorkerPath}, &syscall.ProcAttr{
		Dir:   WorkFolder,
		Env:   env,
		Files: []uintptr{uintptr(null), StdoutFD, StderrFD, ConnFD, HandshakeFD, LedgerFD, DirectFD},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// becomeAgent leaves this process what the agent has: descriptors 0 to 2, the control socket, and a name.
func becomeAgent(conn *os.File, name string) error {
	if err := unix.Dup3(int(conn.Fd()), agent.ControlFD, unix.O_CLOEXEC); err != nil { // in the place of the worker's ConnFD
		return os.NewSyscallError("dup3", err)
	}
	_ = conn.Close()
	for fd := HandshakeFD; fd <= LedgerFD; fd++ {
		_ = syscall.Close(fd)
	}
	// The kernel shows what is there where it had put the arguments.
	if len(os.Args) > 1 {
		room := unsafe.Slice(unsafe.StringData(os.Args[1]), len(os.Args[1]))
		clear(room[copy(room, name):])
	}
	return nil
}

// executeAgent replaces this process, of which only descriptors 0 to 2 and the control socket go on.
func executeAgent(conn *os.File, worker int, name string) error {
	if err := unix.Dup3(int(conn.Fd()), agent.ControlFD, 0); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return syscall.Exec(AgentPath, []string{AgentPath, name}, []string{agent.Variable + "=" + strconv.Itoa(worker)})
}
