package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/oom"
)

// killGrace is how long a cancelled start waits at most for its sandbox to die, which has run nothing that resists.
const killGrace = 10 * time.Second

// answerTime is how long the launcher has to say that a sandbox is dead, before that is found out without it.
const answerTime = 2 * time.Second

type sandbox struct {
	session *session
	spec    driver.Spec
	mounts  []control.Placed
	started chan struct{} // closed when the worker runs
	ended   chan struct{} // closed when every process of the sandbox is dead

	mu      sync.Mutex
	begun   bool // StartWorker was called
	stopped bool // Stop was called
	killed  bool // the launcher was told to kill it, or all
	pidfd   int  // of process 1; -1 if it does not run
	last    control.Event
	cause   error // why no more is known of the end

	mark        oom.Mark
	outOfMemory bool // the kernel killed the worker; set with last
}

func (b *sandbox) setStarted(pidfd int) {
	b.mu.Lock()
	b.pidfd = pidfd
	b.mu.Unlock()
	close(b.started)
}

// setEnded is called once.
func (b *sandbox) setEnded(last control.Event, cause error) {
	b.mu.Lock()
	b.last, b.cause = last, cause
	select {
	case <-b.started:
		if !b.killed && cause == nil && wasKilled(last) {
			b.outOfMemory = b.mark.Killed() // also where a better counter says it: that kill explains no other death
			if last.Counted {
				b.outOfMemory = last.OutOfMemory
			}
		}
	default:
	}
	if b.pidfd >= 0 {
		_ = syscall.Close(b.pidfd)
		b.pidfd = -1
	}
	b.mu.Unlock()
	close(b.ended)
}

// wasKilled tells whether SIGKILL ended the worker, or process 1 and so the worker.
func wasKilled(last control.Event) bool {
	status := syscall.WaitStatus(last.Exit)
	return last.Step == "" && (!last.Exited || status.Signaled() && status.Signal() == syscall.SIGKILL)
}

// awaitDeath returns when the sandbox is dead, for when the launcher, who would say so, is. The kernel has killed
// process 1 with the launcher; this is for what it leaves to do.
func (b *sandbox) awaitDeath() {
	b.mu.Lock()
	pidfd := b.pidfd
	b.mu.Unlock()
	if pidfd < 0 {
		return
	}
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	for {
		// Readable once process 1 is dead, which comes after the deaths of all other processes.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
			return
		}
	}
}

// isDead reports whether every process of the sandbox is known to be dead, whatever the launcher says.
func (b *sandbox) isDead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pidfd < 0 {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(b.pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// kill kills process 1, and asks the launcher to do so, which alone can while the sandbox is being made. If the launcher is
// dead, so is the sandbox.
func (b *sandbox) kill() {
	select {
	case <-b.ended: // by now the id may be another sandbox's
	default:
		b.mu.Lock()
		b.killed = true
		if b.pidfd >= 0 {
			_ = unix.PidfdSendSignal(b.pidfd, unix.SIGKILL, nil, 0)
		}
		b.mu.Unlock()
		b.session.wakeLauncher()
		_ = control.Send(b.session.control, request{Op: opKill, Sandbox: b.spec.ID})
	}
}

func (b *sandbox) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	env, err := packEnv(slices.Concat(b.spec.Env, spec.Env))
	if err != nil {
		return nil, fmt.Errorf("local: start worker in sandbox %s: %w", b.spec.ID, err)
	}
	b.mu.Lock()
	begun, stopped := b.begun, b.stopped
	b.begun, b.mark = true, oom.Now()
	b.mu.Unlock()
	switch {
	case stopped:
		return nil, fmt.Errorf("local: start worker in sandbox %s: it is %w", b.spec.ID, driver.ErrStopped)
	case begun:
		return nil, fmt.Errorf("local: start worker in sandbox %s: it was started before", b.spec.ID)
	}
	streams, passed, err := newStreams()
	if err != nil {
		b.abandon()
		return nil, fmt.Errorf("local: start worker in sandbox %s: %w", b.spec.ID, err)
	}
	err = control.Send(b.session.control, request{Op: opStart, Sandbox: b.spec.ID, Env: env, Limits: b.spec.Limits, Soft: b.spec.Soft, Mounts: b.mounts}, passed.fds()...)
	passed[:len(passed)-1].close() // both sides have the ledger
	if err != nil {
		// The launcher is gone, or going: what it did not get it can't have started.
		streams.close()
		return nil, fmt.Errorf("local: start worker in sandbox %s: %w", b.spec.ID, b.lost(ctx, err))
	}
	process := &process{sandbox: b, streams: streams}
	select {
	case <-b.started:
		return process, nil
	case <-b.ended:
		select {
		case <-b.started: // and ended at once
			return process, nil
		default:
		}
		err = b.startError()
	case <-ctx.Done():
		b.mu.Lock()
		b.stopped = true
		b.mu.Unlock()
		b.kill()
		select {
		case <-b.ended:
		case <-time.After(killGrace): // Close is the next to try
		}
		err = ctx.Err()
	}
	streams.close()
	return nil, err
}

// TemporaryFolder is where package launch lets go-plugin make a folder, which is not left behind wherever the program is killed.
func (b *sandbox) TemporaryFolder() string {
	return fmt.Sprintf("/proc/self/fd/%d", b.session.folder.Fd())
}

// abandon ends a sandbox of which the launcher knows nothing.
func (b *sandbox) abandon() {
	b.session.mu.Lock()
	known := b.session.sandboxes[b.spec.ID] == b
	if known {
		delete(b.session.sandboxes, b.spec.ID)
	}
	b.session.mu.Unlock()
	if known {
		b.setEnded(control.Event{}, nil)
	}
}

// lost ends a sandbox of which the launcher could not be told, and returns why.
func (b *sandbox) lost(ctx context.Context, err error) error {
	for _, broken := range []error{os.ErrClosed, syscall.EPIPE, syscall.ECONNRESET, syscall.ENOTCONN} {
		if errors.Is(err, broken) { // the launcher is gone; soon it is known how
			select {
			case <-b.session.done:
			case <-ctx.Done():
			}
		}
	}
	b.abandon()
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.cause, err)
}

// startError says why a sandbox ended before its worker ran.
func (b *sandbox) startError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.last.Limit != "":
		return driver.NewLimitError(driverName, b.last.Limit, setupError(b.last))
	case b.last.Step != "":
		return setupError(b.last)
	case b.cause != nil:
		return fmt.Errorf("local: start worker in sandbox %s: %w", b.spec.ID, b.cause)
	case b.stopped:
		return fmt.Errorf("local: start worker in sandbox %s: it is %w", b.spec.ID, driver.ErrStopped)
	}
	return &SetupError{Sandbox: b.spec.ID, Step: "set up", Err: errors.New("process 1 was killed" + b.session.stderr.String())}
}

func (b *sandbox) Stop(ctx context.Context) error {
	b.mu.Lock()
	b.stopped = true
	begun := b.begun
	b.begun = true
	b.mu.Unlock()
	if begun {
		b.kill()
	} else {
		b.abandon()
	}
	select {
	case <-b.ended:
		return nil
	case <-time.After(answerTime):
	case <-ctx.Done():
	}
	if b.isDead() { // and the launcher can't say so
		return nil
	}
	select {
	case <-b.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("local: stop sandbox %s: the launcher, process %d, does not say that it is dead: %w",
			b.spec.ID, b.session.launcher.Process.Pid, ctx.Err())
	}
}

type process struct {
	sandbox *sandbox
	*streams
}

// Wait returns when the worker, and with it the whole sandbox, is dead.
func (p *process) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.sandbox.ended:
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
	p.sandbox.mu.Lock()
	defer p.sandbox.mu.Unlock()
	status := syscall.WaitStatus(p.sandbox.last.Exit)
	switch {
	case p.sandbox.last.Exited && status.Signaled():
		return driver.Exit{Code: -1, Signal: status.Signal(), OutOfMemory: p.sandbox.outOfMemory}, nil
	case p.sandbox.last.Exited:
		return driver.Exit{Code: status.ExitStatus()}, nil
	case p.sandbox.cause != nil && !errors.Is(p.sandbox.cause, driver.ErrStopped):
		return driver.Exit{}, fmt.Errorf("local: wait for the worker of sandbox %s: %w", p.sandbox.spec.ID, p.sandbox.cause)
	}
	// Process 1 died first, and took the worker with it as the kernel does it.
	return driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: p.sandbox.outOfMemory}, nil
}

// Kill ends the whole sandbox.
func (p *process) Kill() error {
	p.sandbox.kill()
	return nil
}

// streams are the client's ends of what a worker has open.
type streams struct {
	conn, direct              net.Conn
	handshake, stdout, stderr *os.File
	ledger                    *os.File
}

func (s *streams) Conn() net.Conn           { return s.conn }
func (s *streams) Direct() net.Conn         { return s.direct }
func (s *streams) Handshake() io.ReadCloser { return s.handshake }
func (s *streams) Stdout() io.ReadCloser    { return s.stdout }
func (s *streams) Stderr() io.ReadCloser    { return s.stderr }
func (s *streams) Ledger() *os.File         { return s.ledger }

func (s *streams) close() {
	_, _ = s.conn.Close(), s.direct.Close()
	closeFiles(s.handshake, s.stdout, s.stderr, s.ledger)
}

// passedFiles are the worker's ends, in the order of opStart.
type passedFiles []*os.File

func (p passedFiles) fds() []int {
	var fds []int
	for _, file := range p {
		fds = append(fds, int(file.Fd()))
	}
	return fds
}

func (p passedFiles) close() { closeFiles(p...) }

func closeFiles(files ...*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

func newStreams() (_ *streams, _ passedFiles, err error) {
	var open []*os.File
	var conns [2]*net.UnixConn
	defer func() {
		if err != nil {
			closeFiles(open...)
			for _, conn := range conns {
				if conn != nil {
					_ = conn.Close()
				}
			}
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			open = append(open, r, w)
		}
		return r, w
	}
	handshake, handshakeW := pipe()
	stdout, stdoutW := pipe()
	stderr, stderrW := pipe()
	if err != nil {
		return nil, nil, err
	}
	notes, err := ledger.New()
	if err != nil {
		return nil, nil, err
	}
	open = append(open, notes)
	var theirs [2]*os.File
	for i := range conns {
		ours, other, err := control.SocketPair(unix.SOCK_STREAM)
		if err != nil {
			return nil, nil, err
		}
		theirs[i] = other
		open = append(open, other)
		if conns[i], err = asConn(ours); err != nil {
			return nil, nil, err
		}
	}
	return &streams{conns[0], conns[1], handshake, stdout, stderr, notes}, passedFiles{theirs[0], handshakeW, stdoutW, stderrW, theirs[1], notes}, nil
}

// asConn turns file into a connection of the network poller and closes file.
func asConn(file *os.File) (*net.UnixConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("descriptor is a %T, not a unix socket", conn)
	}
	return unixConn, nil
}
