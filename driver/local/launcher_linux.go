package local

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/agent"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// A launcher makes one session's sandboxes. Its main thread forks, its reader goroutine takes requests, and one
// goroutine for each sandbox waits for the sandbox's end. It exits when the client's end of the control socket closes
// and every sandbox is dead.
type launcher struct {
	client   *os.File
	session  string
	null     *os.File
	defaults driver.Resources
	gvisor   bool
	// ownIDs says that each sandbox has a user and a group of its own outside; else all are the caller.
	ownIDs   bool
	filters  map[bool][]byte // by whether the sandbox can change folders of the host
	groups   *groups
	watchers sync.WaitGroup
	// spare is a process 1 that waits for the next sandbox's orders, nil if there is none. It belongs to the main thread.
	spare *born

	mu        sync.Mutex
	closing   bool
	sandboxes map[string]*launched
	mounts    map[int]error // by number: that it is there, or why not
}

// launched is a sandbox from its request on.
type launched struct {
	id string
	// guarded by launcher.mu
	hostID int // 0 while it has no process
	killed bool
	pid    int // 0 while it does not run
}

type startRequest struct {
	sandbox      *launched
	env          []byte
	limits, soft driver.Resources
	mounts       []control.Placed
	files        []int
}

// resources are what the sandbox gets, if all can be held.
func (r startRequest) resources(defaults driver.Resources) driver.Resources {
	return r.limits.Or(r.soft).Or(defaults)
}

// exitGrace is how long a launcher without a client takes at most to see its sandboxes die.
const exitGrace = 5 * time.Second

// runLauncher serves the client on control.FD until it is gone.
func runLauncher() error {
	// It copies itself for each sandbox, which costs less while it runs on one processor: the other has nothing of its memory to forget.
	runtime.GOMAXPROCS(1)
	if err := control.CloseOnExec(); err != nil {
		return err
	}
	// A service manager that ends the program may send this to all of its processes. When to end is the program's to say.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// What the launcher makes is for a user that is not its own, whatever mask the program has.
	syscall.Umask(0o022)
	client, err := control.Conn(os.NewFile(control.FD, "control"))
	if err != nil {
		return err
	}
	l := &launcher{client: client, sandboxes: map[string]*launched{}, mounts: map[int]error{}}
	if failed, err := l.open(); err != nil {
		return control.Send(client, control.Failure("", failed, err))
	}
	folder, err := unix.Open(temporary, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return control.Send(client, control.Failure("", "open "+temporary, err))
	}
	err = control.Send(client, control.Event{Kind: control.EventReady, Mechanisms: l.groups.mechanisms(), Refused: l.groups.refused}, folder)
	_ = unix.Close(folder)
	if err != nil {
		return err
	}
	starts := make(chan startRequest, 64)
	go l.read(starts)
	for start := range starts {
		l.start(start)
		// A spare has the limits that are the default, and no mounts. Who asks for others may do so always.
		if len(starts) == 0 && start.resources(l.defaults) == l.defaults && len(start.mounts) == 0 {
			l.prepare()
		}
	}
	if l.spare != nil {
		l.spare.end()
	}
	l.watchers.Wait()
	l.groups.close()
	return nil
}

// open takes the first request, builds what all sandboxes share, and makes one sandbox without a worker, so that what
// this machine refuses is known now.
func (l *launcher) open() (failed string, err error) {
	var first request
	files, err := control.Receive(l.client, &first, control.MaxMessage)
	if err != nil {
		return "receive the first request", err
	}
	if first.Op != opOpen || len(files) != 2 {
		control.CloseAll(files)
		return "receive the first request", fmt.Errorf("got %q with %d descriptors", first.Op, len(files))
	}
	program, worker := os.NewFile(uintptr(files[0]), "program"), os.NewFile(uintptr(files[1]), "worker")
	defer closeFiles(program, worker)
	l.session, l.defaults, l.gvisor, l.ownIDs = first.Session, first.Defaults, first.Runsc != "", first.OwnIDs
	var runsc *os.File
	if l.gvisor {
		// In this mount namespace, or it could not be mounted; and now, for the stage may cover its folder.
		if runsc, err = os.Open(first.Runsc); err != nil {
			return "open runsc", err
		}
		defer runsc.Close()
	}
	if l.null, err = os.OpenFile("/dev/null", os.O_RDWR, 0); err != nil {
		return "open /dev/null", err
	}
	if l.ownIDs {
		// Sandboxes can't drop the groups that they inherit, because their maps say so. They inherit this thread's, and syscall.Setgroups, which drops those of all,
		// panics in a program that calls C without cgo.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return "drop supplementary groups", errno
		}
	}
	l.filters = map[bool][]byte{}
	for _, shares := range []bool{false, true} {
		filter, err := filterOf(shares)
		if err != nil {
			return "find the system call filter", err
		}
		l.filters[shares] = filter
	}
	l.groups = findGroups(first.HandedOver)
	if failed, err := setup.Do(stageSteps(program, worker, runsc)); err != nil {
		return failed, err
	}
	return l.probe()
}

func (l *launcher) probe() (failed string, err error) {
	p, err := l.fork(l.defaults, nil, nil, true)
	if err != nil {
		return "start a process in new namespaces", err
	}
	pid, conn := p.pid, p.conn
	defer syscall.Close(p.pidfd)
	defer conn.Close()
	var result control.Event
	if _, err = control.Receive(conn, &result, control.MaxEvent); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	status, waitErr := wait(pid)
	switch {
	case err == io.EOF && waitErr == nil && status.Signal() == syscall.SIGKILL: //nolint:errorlint // nobody wraps it
		return "set up a sandbox to try", fmt.Errorf("its process 1: %w", control.ErrKilled)
	case err != nil || waitErr != nil:
		return "set up a sandbox to try", fmt.Errorf("process 1 ended (wait status %#x): %w", status, cmp.Or(err, waitErr))
	case result.Kind == control.EventFailed:
		return result.Step, result.Err()
	case l.gvisor && status.ExitStatus() != 0:
		return "run a program in gVisor", fmt.Errorf("exit status %d; runsc must be a release of 2023 or later", status.ExitStatus())
	}
	return "", nil
}

// read takes the client's requests until the client is gone; then it kills what runs.
func (l *launcher) read(starts chan<- startRequest) {
	for {
		var r request
		files, err := control.Receive(l.client, &r, control.MaxMessage)
		if err != nil {
			break // gone, or not our protocol
		}
		switch r.Op {
		case opStart:
			sandbox := &launched{id: r.Sandbox}
			l.mu.Lock()
			l.sandboxes[r.Sandbox] = sandbox
			l.mu.Unlock()
			starts <- startRequest{sandbox: sandbox, env: r.Env, limits: r.Limits, soft: r.Soft, mounts: r.Mounts, files: files}
		case opMount:
			l.attach(r, files)
		case opKill:
			control.CloseAll(files)
			l.mu.Lock()
			if sandbox := l.sandboxes[r.Sandbox]; sandbox != nil {
				sandbox.kill()
			}
			l.mu.Unlock()
		}
	}
	l.mu.Lock()
	l.closing = true
	for _, sandbox := range l.sandboxes {
		sandbox.kill()
	}
	l.mu.Unlock()
	close(starts)
	// Should a start hang, this process's end kills what it has forked.
	time.AfterFunc(exitGrace, func() { syscall.Exit(1) })
}

// kill ends process 1, and with it everything in the sandbox; or keeps it from being started. Its process id can't
// have been given to another process: whoever reaps it sets pid to 0 first, under the lock that is held here.
func (s *launched) kill() {
	s.killed = true
	if s.pid != 0 {
		_ = syscall.Kill(s.pid, syscall.SIGKILL)
	}
}

// start makes a sandbox, on the launcher's main thread, whose end kills what it has forked.
func (l *launcher) start(r startRequest) {
	defer control.CloseAll(r.files)
	l.mu.Lock()
	killed := r.sandbox.killed || l.closing
	l.mu.Unlock()
	if killed {
		l.ended(r.sandbox, control.Event{})
		return
	}
	if len(r.files) != control.MaxPassed {
		l.ended(r.sandbox, control.Failure(r.sandbox.id, "receive the start request", fmt.Errorf("got %d descriptors", len(r.files))))
		return
	}
	if target, err := l.missing(r.mounts); err != nil {
		l.ended(r.sandbox, control.Failure(r.sandbox.id, "mount "+target, err))
		return
	}
	resources := r.resources(l.defaults)
	group, failed := l.groups.make(l.session, r.sandbox.id, resources)
	unheld := map[string]string{}
	for limit, err := range failed {
		if slices.Contains(r.limits.Names(), limit) {
			group.remove()
			e := control.Failure(r.sandbox.id, "limit "+limit, err)
			e.Limit = limit
			l.ended(r.sandbox, e)
			return
		}
		unheld[limit] = err.Error()
	}
	p, err := l.instruct(resources, r.mounts, l.orders(r, unheld), r.files, group)
	if err != nil && group != nil { // it may be that it can't be entered
		group.remove()
		for _, limit := range group.limits {
			if slices.Contains(r.limits.Names(), limit) {
				e := control.Failure(r.sandbox.id, "limit "+limit, err)
				e.Limit = limit
				l.ended(r.sandbox, e)
				return
			}
			unheld[limit] = err.Error()
		}
		group = nil
		p, err = l.instruct(resources, r.mounts, l.orders(r, unheld), r.files, nil)
	}
	if err != nil {
		l.ended(r.sandbox, control.Failure(r.sandbox.id, "start a process in new namespaces", err))
		return
	}
	l.mu.Lock()
	r.sandbox.hostID, r.sandbox.pid = p.hostID, p.pid
	if r.sandbox.killed || l.closing {
		r.sandbox.kill()
	}
	l.mu.Unlock()
	l.watchers.Go(func() { l.watch(r.sandbox, p.pid, p.pidfd, p.conn, group, unheld) })
}

// orders are a sandbox's, but for its descriptors. Its Go runtime goes by the limits that are held.
func (l *launcher) orders(r startRequest, unheld map[string]string) control.Orders {
	held := r.limits.Or(r.soft).Without(slices.Collect(maps.Keys(unheld))...)
	if l.gvisor && held.MemoryMiB > 0 {
		held.MemoryMiB = max(held.MemoryMiB-gvisorMiB, held.MemoryMiB/2)
	}
	return control.Orders{Name: l.session + "/" + r.sandbox.id, Env: control.JoinEnv(goLimits(control.UnpackEnv(r.env), held))}
}

// watch passes on what a sandbox reports, until its process 1 and so all its processes are dead. That process is inside:
// what it sends is taken for what it may be at most, one start and one end.
func (l *launcher) watch(sandbox *launched, pid, pidfd int, conn *os.File, group *group, unheld map[string]string) {
	defer conn.Close()
	var last control.Event
	started, over := false, false
	for !over {
		var e control.Event
		files, err := control.Receive(conn, &e, control.MaxEvent)
		control.CloseAll(files) // nothing is accepted from a sandbox
		switch {
		case err != nil:
			over = true
		case e.Kind == control.EventStarted && !started:
			started = true
			_ = control.Send(l.client, control.Event{Kind: control.EventStarted, Sandbox: sandbox.id, Unheld: unheld}, pidfd)
		case e.Kind == control.EventExited:
			last, over = control.Event{Exited: true, Exit: e.Exit}, true
		case e.Kind == control.EventFailed && !started:
			last, over = control.Event{Step: control.Clip(e.Step, control.MaxStep), Errno: e.Errno, Text: control.Clip(e.Text, control.MaxText)}, true
		default:
			over = true // it is not ours that sends this
		}
	}
	_ = syscall.Close(pidfd)
	l.mu.Lock()
	sandbox.pid = 0
	l.mu.Unlock()
	// It is dead, or soon, or has nothing more to say.
	_ = syscall.Kill(pid, syscall.SIGKILL)
	status, err := wait(pid)
	if l.gvisor && err == nil && last.Step == "" && status.Exited() {
		// runsc has no other way to say that a signal ended the worker.
		if code := status.ExitStatus(); code > signalled && code <= signalled+agent.LastSignal {
			status = syscall.WaitStatus(code - signalled)
		}
		last.Exited, last.Exit = true, uint32(status)
	}
	last.OutOfMemory, last.Counted = group.outOfMemory()
	group.remove()
	l.ended(sandbox, last)
}

// signalled is what shells, and runsc, add to a signal's number for an exit status.
const signalled = 128

// ended forgets the sandbox and tells the client.
func (l *launcher) ended(sandbox *launched, last control.Event) {
	l.mu.Lock()
	delete(l.sandboxes, sandbox.id)
	l.mu.Unlock()
	last.Kind, last.Sandbox = control.EventEnded, sandbox.id
	_ = control.Send(l.client, last) // without a client there is nobody to tell
}

// born is a process 1 in its namespaces, which prepares the sandbox. Until it has its orders it starts nothing.
type born struct {
	hostID, pid, pidfd int
	conn               *os.File
}

// end kills and reaps it.
func (p *born) end() {
	_ = p.conn.Close()
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
	_, _ = wait(p.pid)
	_ = syscall.Close(p.pidfd)
}

// prepare makes the spare, which saves the next start all but the worker's own. Should that fail, the next start says why.
func (l *launcher) prepare() {
	l.mu.Lock()
	closing := l.closing
	l.mu.Unlock()
	if l.spare == nil && !closing {
		l.spare, _ = l.fork(l.defaults, nil, nil, false)
	}
}

// instruct gives orders to the spare, or to a new process 1 if there is none or if the sandbox is to have other limits, or mounts.
func (l *launcher) instruct(resources driver.Resources, mounts []control.Placed, o control.Orders, files []int, group *group) (*born, error) {
	if spare := l.spare; spare != nil && group == nil && resources == l.defaults && len(mounts) == 0 {
		l.spare = nil
		if control.Send(spare.conn, o, files...) == nil {
			return spare, nil
		}
		spare.end() // something has killed it
	}
	p, err := l.fork(resources, mounts, group, false)
	if err != nil {
		return nil, err
	}
	// One that could not prepare the sandbox may have ended already: what it said of that is to be read, as if it had its orders.
	if err := control.Send(p.conn, o, files...); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		p.end()
		return nil, err
	}
	return p, nil
}

// setupRole is the role of process 1 without gVisor. Only a test changes it.
var setupRole = setup.Role

// fork starts process 1 in new namespaces and in its group, and has it prepare the sandbox.
func (l *launcher) fork(resources driver.Resources, mounts []control.Placed, group *group, probe bool) (_ *born, err error) {
	hostID := l.hostID()
	ours, theirs, err := control.SocketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := control.Conn(ours)
	if err != nil {
		return nil, err
	}
	// The worker's descriptors come with the orders. Their places are taken until then, or the Go runtime would have them.
	null := l.null.Fd()
	inherited := []uintptr{null, null, uintptr(syscall.Stderr), theirs.Fd(), null, null, null, null, null, null}
	outside := user{hostID, hostID}
	if !l.ownIDs {
		outside.gid = os.Getegid()
	}
	inside, role := user{setup.InnerID, setup.InnerID}, setupRole
	if l.gvisor {
		role = roleGVisor
		inside = user{} // of the namespace alone; gVisor gives its worker setup.InnerID, and no privilege
	}
	attributes := inNamespaces(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWNET|
		syscall.CLONE_NEWIPC|syscall.CLONE_NEWUTS, inside, outside)
	attributes.Credential = &syscall.Credential{Uid: uint32(inside.uid), Gid: uint32(inside.gid), NoSetGroups: true}
	attributes.Pdeathsig = syscall.SIGKILL
	attributes.Setsid = true
	p := &born{hostID: hostID, conn: conn}
	attributes.PidFD = &p.pidfd
	if group != nil && group.folder != nil {
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(group.folder.Fd())
	}
	// The program may need the libraries that the sandbox root has. The working folder stays outside of it.
	attributes.Chroot = setup.StageRoot
	env := []string{setup.RoleVariable + "=" + role}
	slack := 0 // this program's
	if !l.gvisor {
		env = append(env, "GOMAXPROCS=1") // it does one thing after the other; further threads would cost more than they do
		slack = setup.TimerSlack
	}
	// Of this thread, from which process 1 has it. Where there is no such thing, starts cost more, and that is all.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
	p.pid, err = syscall.ForkExec(setup.AgentPath, []string{setup.AgentPath, setup.Room}, &syscall.ProcAttr{
		Env:   env,
		Files: inherited,
		Sys:   attributes,
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	// Before anything else: it is to see its group as the top of all.
	if err = group.join(p.pid); err == nil {
		err = control.Send(conn, control.Preparation{Limits: control.Limits{Processes: resources.Processes, OpenFiles: resources.OpenFiles, DiskMiB: resources.DiskMiB, Inodes: resources.Inodes}, Mounts: mounts, Filter: l.filters[slices.ContainsFunc(mounts, func(m control.Placed) bool { return m.Writable })], Probe: probe})
	}
	if err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// hostID is the user outside of the next sandbox: one that nothing else uses, or the caller.
func (l *launcher) hostID() int {
	if !l.ownIDs {
		return os.Geteuid()
	}
	for {
		id := firstID + rand.IntN(lastID-firstID+1)
		l.mu.Lock()
		taken := l.spare != nil && l.spare.hostID == id
		for _, sandbox := range l.sandboxes {
			taken = taken || sandbox.hostID == id
		}
		l.mu.Unlock()
		if !taken {
			return id
		}
	}
}

// wait reaps a child.
func wait(pid int) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR {
			return status, err
		}
	}
}
