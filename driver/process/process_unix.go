//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/oom"
	"github.com/sandboxfn/sbx/internal/scratch"
)

// folderPrefix begins the name of each session's folder in the folder for temporary files.
const folderPrefix = "sbx-process-"

func open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	worker, err := spec.Worker(ctx, driver.Host())
	if err != nil {
		return nil, err
	}
	if worker, err = filepath.Abs(worker); err != nil { // it starts in another folder
		return nil, fmt.Errorf("process: open session %s: find the worker: %w", spec.ID, err)
	}
	folders, err := scratch.Make(ctx, folderPrefix, spec.Logger)
	if err != nil {
		return nil, fmt.Errorf("process: open session %s: make a folder for its workers; TMPDIR can name another place: %w", spec.ID, err)
	}
	return &session{worker: worker, folders: folders, sandboxes: map[*sandbox]struct{}{}}, nil
}

type session struct {
	worker  string // path of the executable
	folders *scratch.Folders

	closing sync.Mutex // while the folders are closed
	settled bool       // they are; guarded by closing

	mu        sync.Mutex
	closed    bool
	sandboxes map[*sandbox]struct{}
}

func (s *session) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.Report().Check(spec.Limits); err != nil {
		return nil, fmt.Errorf("process: create sandbox %s: %w", spec.ID, err)
	}
	if err := driver.NoImages("process", "its workers are plain processes, which see this machine's files", spec.Image); err != nil {
		return nil, fmt.Errorf("process: create sandbox %s: %w", spec.ID, err)
	}
	if err := driver.NoMounts("process", "its workers are plain processes, which see this machine's files where they are", spec.Mounts); err != nil {
		return nil, fmt.Errorf("process: create sandbox %s: %w", spec.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("process: create sandbox %s: session is %w", spec.ID, driver.ErrStopped)
	}
	folder, err := s.folders.Add(spec.ID)
	if err != nil {
		return nil, fmt.Errorf("process: create sandbox %s: make its folder: %w", spec.ID, err)
	}
	sb := &sandbox{session: s, spec: spec, folder: folder}
	s.sandboxes[sb] = struct{}{}
	return sb, nil
}

func (*session) Report() driver.Report {
	return driver.Unheld("process", "its workers are plain processes",
		"use the local driver (the default) on Linux")
}

func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	left := slices.Collect(maps.Keys(s.sandboxes))
	s.mu.Unlock()
	if err := driver.StopAll(ctx, left); err != nil {
		return err
	}
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.settled {
		return nil
	}
	if err := s.folders.Close(); err != nil {
		return fmt.Errorf("process: close session: %w", err)
	}
	s.settled = true
	return nil
}

type sandbox struct {
	session *session
	spec    driver.Spec
	folder  string // the worker's working folder

	removing sync.Mutex // while the folder is removed
	removed  bool       // it is; guarded by removing

	mu      sync.Mutex
	stopped bool
	process *process
}

func (sb *sandbox) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	switch {
	case sb.stopped:
		return nil, fmt.Errorf("process: sandbox %s: %w", sb.spec.ID, driver.ErrStopped)
	case sb.process != nil:
		return nil, fmt.Errorf("process: sandbox %s has a worker already", sb.spec.ID)
	}
	p, err := start(sb.session.worker, sb.folder, slices.Concat(sb.spec.Env, spec.Env))
	if err != nil {
		return nil, fmt.Errorf("process: sandbox %s: start the worker: %w", sb.spec.ID, err)
	}
	sb.process = p
	return p, nil
}

func (sb *sandbox) Stop(ctx context.Context) error {
	sb.mu.Lock()
	sb.stopped = true
	p := sb.process
	sb.mu.Unlock()
	if p != nil {
		killErr := p.Kill()
		err := p.awaitDeath(ctx)
		switch {
		case err != nil && killErr != nil:
			return fmt.Errorf("process: stop sandbox %s: its worker, process %d, can't be killed: %w (%w)", sb.spec.ID, p.cmd.Process.Pid, killErr, err)
		case err != nil:
			return fmt.Errorf("process: stop sandbox %s: %w", sb.spec.ID, err)
		}
	}
	sb.removing.Lock()
	defer sb.removing.Unlock()
	if sb.removed { // and the id may be another sandbox's
		return nil
	}
	if err := sb.session.folders.Remove(sb.spec.ID); err != nil {
		return fmt.Errorf("process: stop sandbox %s: %w", sb.spec.ID, err)
	}
	sb.removed = true
	sb.session.mu.Lock()
	defer sb.session.mu.Unlock()
	delete(sb.session.sandboxes, sb)
	return nil
}

// process is a worker's process. One goroutine waits for its end.
type process struct {
	cmd                       *exec.Cmd
	conn, direct              net.Conn
	handshake, stdout, stderr *os.File
	ledger                    *os.File

	killed      atomic.Bool // by Kill
	done        chan struct{}
	waitErr     error // read after done, as is:
	outOfMemory bool
}

func start(worker, folder string, env []string) (_ *process, err error) {
	var opened []io.Closer // closed if the start fails
	defer func() {
		if err != nil {
			for _, file := range opened {
				_ = file.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			opened = append(opened, r, w)
		}
		return r, w
	}
	stdout, stdoutWriter := pipe()
	stderr, stderrWriter := pipe()
	handshake, handshakeWriter := pipe()
	if err != nil {
		return nil, err
	}
	conn, inner, err := socketPair()
	if err != nil {
		return nil, err
	}
	opened = append(opened, conn, inner)
	direct, innerDirect, err := socketPair()
	if err != nil {
		return nil, err
	}
	opened = append(opened, direct, innerDirect)
	notes, err := ledger.New()
	if err != nil {
		return nil, err
	}
	opened = append(opened, notes)

	cmd := exec.Command(worker)
	cmd.Dir = folder
	cmd.Env = append([]string{}, env...) // never nil, which would mean this program's own
	cmd.Stdout, cmd.Stderr = stdoutWriter, stderrWriter
	cmd.ExtraFiles = []*os.File{
		driver.ConnFD - 3: inner, driver.HandshakeFD - 3: handshakeWriter, driver.LedgerFD - 3: notes, driver.DirectFD - 3: innerDirect,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	mark := oom.Now()
	started, p := make(chan error), &process{cmd: cmd, conn: conn, direct: direct, handshake: handshake, stdout: stdout, stderr: stderr, ledger: notes, done: make(chan struct{})}
	go p.run(mark, started)
	if err := <-started; err != nil {
		return nil, err
	}
	for _, file := range []*os.File{stdoutWriter, stderrWriter, handshakeWriter, inner, innerDirect} {
		_ = file.Close()
	}
	return p, nil
}

// run starts the process and waits for its end. It stays on one thread, since the kernel takes the end of the thread for that of the
// parent (see dieWithParent).
func (p *process) run(mark oom.Mark, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	defer close(p.done)
	p.waitErr = p.cmd.Wait()
	// What the worker started and left behind in its group ends with it.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	if p.cmd.ProcessState == nil {
		return
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.outOfMemory = status.Signal() == syscall.SIGKILL && !p.killed.Load() && mark.Killed()
	}
}

// socketPair returns the two ends of a byte stream.
func socketPair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	outer, inner := os.NewFile(uintptr(fds[0]), "session"), os.NewFile(uintptr(fds[1]), "worker")
	defer func() { _ = outer.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(outer)
	if err != nil {
		_ = inner.Close()
		return nil, nil, err
	}
	return conn, inner, nil
}

func (p *process) Conn() net.Conn { return p.conn }

func (p *process) Direct() net.Conn { return p.direct }

func (p *process) Handshake() io.ReadCloser { return p.handshake }

func (p *process) Stdout() io.ReadCloser { return p.stdout }

func (p *process) Stderr() io.ReadCloser { return p.stderr }

func (p *process) Ledger() *os.File { return p.ledger }

func (p *process) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
	if p.cmd.ProcessState == nil {
		return driver.Exit{}, fmt.Errorf("process: wait: the worker has ended, and something else in this program, or its ignoring SIGCHLD, took its exit status: %w", p.waitErr)
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return driver.Exit{}, fmt.Errorf("process: wait: %w", p.waitErr)
	}
	if status.Signaled() {
		return driver.Exit{Code: -1, Signal: status.Signal(), OutOfMemory: p.outOfMemory}, nil
	}
	return driver.Exit{Code: status.ExitStatus()}, nil
}

// reapTime is how long a worker that was killed has to be reaped, before it is looked at without that.
const reapTime = 2 * time.Second

// awaitDeath waits until the worker is dead. One that another process traces can be dead without being reaped.
func (p *process) awaitDeath(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(reapTime):
	case <-ctx.Done():
	}
	if isZombie(p.cmd.Process.Pid) {
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Kill kills the process group.
func (p *process) Kill() error {
	select {
	case <-p.done:
		return nil // the group's number may be another's by now
	default:
	}
	p.killed.Store(true)
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	// The worker may have left its group.
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
