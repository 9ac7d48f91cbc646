package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/internal/oom"
)

const (
	// hangUpTime is how long the driver has to read what the worker left, when it has ended.
	hangUpTime = 30 * time.Second
	// deathTime is how long processes that were killed are waited for.
	deathTime = 2 * time.Second
	// moreLikely is how much sooner than the agent the kernel kills a process of the sandbox when memory runs out, in thousandths of it.
	moreLikely = 500
)

func init() {
	value, ok := os.LookupEnv(Variable)
	if !ok {
		return
	}
	_ = os.Unsetenv(Variable)
	if err := run(value); err != nil {
		fmt.Fprintln(os.Stderr, "sbx: agent:", err)
		syscall.Exit(1)
	}
	// Not os.Exit, which, in programs built with -race, sleeps for a second first.
	syscall.Exit(0)
}

// agent is this process's work.
type agent struct {
	link link
	gone chan struct{} // closed when the driver has hung up

	mu     sync.Mutex
	worker int  // its process id; 0 if it does not run
	killed bool // somebody asked for its end
}

// run returns when the worker has ended, and the driver has heard of it.
func run(value string) error {
	var boot Boot
	if err := json.Unmarshal([]byte(value), &boot); err != nil {
		return fmt.Errorf("%s: %w: this variable is set by a driver when it starts a container; unset it", Variable, err)
	}
	// User code has the same user id. It shall neither trace this process nor find its descriptors.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // where it is not process 1
		return os.NewSyscallError("prctl", err)
	}
	// When to end is the driver's to say. They are not ignored, which the worker would inherit.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if boot.Lifetime > 0 {
		time.AfterFunc(boot.Lifetime, func() {
			fmt.Fprintf(os.Stderr, "sbx: agent: the sandbox's lifetime of %v is over\n", boot.Lifetime)
			killAll(0)
			syscall.Exit(1) // all others end with process 1
		})
	}
	link, err := connect(boot)
	if err != nil {
		return err
	}
	a := &agent{link: link, gone: make(chan struct{})}
	return a.serve()
}

func (a *agent) serve() error {
	request, files, err := a.link.receive()
	switch {
	case err != nil:
		return nil //nolint:nilerr // the driver does not want a worker
	case request.Start == nil:
		return errors.New("the first request is not to start the worker")
	}
	before := outOfMemoryKills()
	worker, err := a.start(request.Start, files)
	for _, file := range files {
		_ = file.Close()
	}
	if err != nil {
		return errors.Join(err, a.link.send(Event{Error: err.Error()}))
	}
	if err := a.link.send(Event{Started: true}); err != nil {
		a.kill()
	}
	go a.listen()
	status, err := a.reap(worker)
	if err != nil {
		return err
	}
	killAll(worker)
	exit := Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit = Exit{Code: -1, Signal: int(status.Signal())}
		exit.OutOfMemory = status.Signal() == syscall.SIGKILL && !a.wasKilled() && outOfMemoryKills() > before
	}
	if err := a.link.send(Event{Exit: &exit}); err != nil {
		return nil //nolint:nilerr // nobody is there to hear of it
	}
	select {
	case <-a.gone:
	case <-time.After(hangUpTime):
	}
	return nil
}

// listen carries out requests until the driver hangs up.
func (a *agent) listen() {
	defer close(a.gone)
	defer a.kill()
	for {
		request, _, err := a.link.receive()
		if err != nil || request.Start != nil {
			return
		}
		if request.Kill {
			a.kill()
		}
	}
}

// start starts this program as the worker, with the descriptors that package driver says, in a session of its own.
func (a *agent) start(start *Start, files []*os.File) (int, error) {
	// A limit of 1 keeps the kernel from writing core files, and from starting the machine's handler for them, which 0 does not.
	const noCore = 1
	for limit, most := range map[int]uint64{unix.RLIMIT_NOFILE: start.OpenFiles, unix.RLIMIT_NPROC: start.Processes, unix.RLIMIT_CORE: noCore} {
		if most == 0 {
			continue
		}
		var has syscall.Rlimit
		if err := syscall.Getrlimit(limit, &has); err != nil {
			return 0, os.NewSyscallError("getrlimit", err)
		}
		most = min(most, has.Max) // who limits the container to less has the last word
		// The package syscall's own, or children would get back the limit of open files that this process began with.
		if err := syscall.Setrlimit(limit, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
			return 0, os.NewSyscallError("setrlimit", err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	descriptors := []uintptr{null.Fd()}
	for _, file := range []int{StdoutFile, StderrFile, ConnFile, HandshakeFile, LedgerFile, DirectFile} {
		descriptor := ^uintptr(0) // which is closed there
		if files[file] != nil {
			descriptor = files[file].Fd()
		}
		descriptors = append(descriptors, descriptor)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	worker, err := syscall.ForkExec(self, []string{self}, &syscall.ProcAttr{
		Env: start.Env, Files: descriptors, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s as the worker: %w", self, err)
	}
	a.worker = worker
	preferToKill(worker)
	return worker, nil
}

// preferToKill has the kernel choose the worker, and what it will start, before the agent. If it can't be, the driver must find out from the engine
// that memory ran out.
func preferToKill(worker int) {
	own, _ := os.ReadFile("/proc/self/oom_score_adj")
	adjustment, _ := strconv.Atoi(strings.TrimSpace(string(own)))
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", worker), strconv.AppendInt(nil, int64(min(adjustment+moreLikely, 1000)), 10), 0)
}

// reap waits for the worker's end, and for that of orphans that end before it.
func (a *agent) reap(worker int) (syscall.WaitStatus, error) {
	for {
		// Its status is taken with the lock, or kill could meet a process that has got the same id.
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, os.NewSyscallError("waitid", err)
		}
		a.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if pid == worker {
			a.worker = 0
		}
		a.mu.Unlock()
		if err == nil && pid == worker {
			return status, nil
		}
	}
}

func (a *agent) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.killed = true
	if a.worker != 0 {
		_ = syscall.Kill(a.worker, syscall.SIGKILL)
	}
}

func (a *agent) wasKilled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.killed
}

// killAll kills every other process of the sandbox and waits for their ends. Where the agent is not process 1, it can't tell which these are, beyond
// the worker's group.
func killAll(worker int) {
	switch {
	case os.Getpid() == 1:
		_ = syscall.Kill(-1, syscall.SIGKILL)
	case worker != 0:
		_ = syscall.Kill(-worker, syscall.SIGKILL)
	}
	for end := time.Now().Add(deathTime); time.Now().Before(end); {
		switch pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); {
		case err == syscall.ECHILD:
			return
		case err == nil && pid == 0:
			time.Sleep(time.Millisecond)
		}
	}
}

// outOfMemoryKills is how many processes of the container the kernel has killed because memory ran out; 0 where that can't be read.
func outOfMemoryKills() uint64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		if n, ok := oom.Count(path); ok {
			return n
		}
	}
	return 0
}
