package sbx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Status is what becomes of a [Sandbox].
type Status int

const (
	// Unstarted is a sandbox that was not used yet, or whose start failed: it is started when it is used.
	Unstarted Status = iota
	// Starting is a sandbox that is being started.
	Starting
	// Running is a sandbox that can be used.
	Running
	// Stopping is a sandbox that is being stopped, or whose last stop failed.
	Stopping
	// Stopped is a sandbox that was stopped: by [Sandbox.Stop], or with its session.
	Stopped
	// Lost is a sandbox that ended otherwise; [Sandbox.Wait] says how.
	Lost
)

func (s Status) String() string {
	if s < Unstarted || s > Lost {
		return fmt.Sprintf("Status(%d)", int(s))
	}
	return [...]string{"unstarted", "starting", "running", "stopping", "stopped", "lost"}[s]
}

// ErrNotRunning is wrapped by the error of a use of a sandbox that has ended, or is being stopped. It is not started again.
var ErrNotRunning = errors.New("the sandbox does not run any more")

// errStopped is how a sandbox ended that was stopped.
var errStopped = errors.New("it was stopped")

// SandboxError is the error of what was done with a sandbox.
type SandboxError struct {
	// Sandbox is the sandbox's id; empty if it was not started.
	Sandbox string
	// Op is what was done: "start", "run echo", "read notes.txt".
	Op string
	// Err is the cause. A file's is an *fs.PathError, or an *os.LinkError if there are two, so that errors.Is(err, fs.ErrNotExist) says what it says elsewhere.
	Err error
}

func (e *SandboxError) Error() string {
	text := "sbx: "
	if e.Sandbox != "" {
		text += "sandbox " + e.Sandbox + ": "
	}
	switch e.Err.(type) { //nolint:errorlint // one that is wrapped deeper does not begin with what was done
	case *fs.PathError, *os.LinkError:
	default:
		text += e.Op + ": "
	}
	return text + e.Err.Error()
}

func (e *SandboxError) Unwrap() error { return e.Err }

// Sandbox is a sandbox that the program uses itself: it runs commands and functions there, and reads and writes its files. It is
// started when it is used first, and runs until it is stopped, or its session is closed. Its methods may be called at the same time.
//
// Commands, files and functions ([Function.In]) of one sandbox share everything in it. All are served by one process, the worker: a function
// that ends its process ends the sandbox.
//
// A change of files that was given up, because its context ended, may have been made or not. It is over before anything begins that is
// done with files, or by a command, after its method has failed, or the context of its File has ended. What begins then waits for it, and fails if
// that takes more than ten seconds: where the file system of a mounted folder does not answer, say.
type Sandbox struct {
	session *Session
	class   class
	tags    []string
	calls   *pool.Pool[class, *sandbox] // of this one, for functions
	owner   bool                        // the session is the sandbox's own
	misuse  error

	mu       sync.Mutex
	status   Status
	id       string
	running  *sandbox      // when it runs, or is being stopped
	change   chan struct{} // closed when the start or the stop that goes on has ended
	startErr error         // of the last start
	stopErr  error         // of the last stop
	cancel   context.CancelFunc
	cause    error         // how it ended, or is to end
	end      Status        // Stopped or Lost, if cause is set
	ended    chan struct{} // closed when it is Stopped or Lost
	adopters []*Session
	serial   uint64 // of commands

	copying chan struct{} // has one for each small file that is being copied beside others
}

// Sandbox returns a sandbox that is not started yet, with the session's defaults and what opts override. It does no I/O. What is wrong
// with opts is reported by the first use. Close stops the sandbox. It does not count for [MaxSandboxes], which bounds the pool.
func (s *Session) Sandbox(opts ...SandboxOption) *Sandbox {
	sb := &Sandbox{session: s, ended: make(chan struct{}), copying: make(chan struct{}, copiesAtOnce)}
	if !s.opened() {
		sb.misuse = errNotOpened
		return sb
	}
	wanted, err := newSandboxSpec(s.config.spec, opts)
	// What bounds a sandbox of the pool, from which calls get another one, has no meaning here.
	wanted.fresh = false
	sb.misuse, sb.tags, sb.class = err, wanted.tags, wanted.class()
	sb.class.limits.Uses, sb.class.limits.Age, sb.class.limits.Idle, sb.class.limits.Own = 0, 0, 0, true
	sb.calls = pool.New(1, pool.Backend[class, *sandbox]{
		Open:   func(ctx context.Context, _ class) (*sandbox, error) { return sb.started(ctx) },
		Stop:   sb.discard,
		Limits: func(c class) pool.Limits { return c.limits },
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sb.misuse != nil:
	case s.closed:
		sb.misuse = ErrClosed
	default:
		s.own[sb] = struct{}{}
		s.counts.count(func(own *OwnStats, _ *CommandStats) { own.Made++ })
	}
	return sb
}

// Run opens a session of one sandbox and starts that. [Sandbox.Close] ends both. For several sandboxes, open a session.
func Run(ctx context.Context, opts ...OpenOption) (*Sandbox, error) {
	s, err := Open(ctx, opts...)
	if err != nil {
		return nil, err
	}
	sb := s.Sandbox()
	sb.owner = true
	if err := sb.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return sb, nil
}

var errNotMade = &OptionError{Option: "the sandbox", Reason: "was not made; use what Session.Sandbox or sbx.Run returned, and look at Run's error first"}

// wrong is why the sandbox can't be used at all.
func (sb *Sandbox) wrong() error {
	if sb == nil || sb.session == nil {
		return errNotMade
	}
	return sb.misuse
}

// ID is the sandbox's id, as log records have it; empty until it is started.
func (sb *Sandbox) ID() string {
	if sb == nil {
		return ""
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.id
}

// Tags are the sandbox's tags.
func (sb *Sandbox) Tags() []string {
	if sb == nil {
		return nil
	}
	return slices.Clone(sb.tags)
}

// Status is what has become of the sandbox by now.
func (sb *Sandbox) Status() Status {
	if sb == nil {
		return Unstarted
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.status
}

// String is the sandbox's id and status.
func (sb *Sandbox) String() string {
	if sb == nil {
		return "sandbox that was not made"
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.id == "" {
		return "sandbox (" + sb.status.String() + ")"
	}
	return fmt.Sprintf("sandbox %s (%s)", sb.id, sb.status)
}

// GoString is String: the options may be secret, and are not for %#v to print.
func (sb *Sandbox) GoString() string { return sb.String() }

// Start starts the sandbox, if nothing has, and returns when it runs. Those who wait at the same time share one start; it goes on when ctx, which bounds only
// the wait, ends. After a start that failed the next use tries again.
func (sb *Sandbox) Start(ctx context.Context) error {
	_, err := sb.use(ctx, "start")
	return err
}

// use returns the running sandbox, for an operation.
func (sb *Sandbox) use(ctx context.Context, op string) (*sandbox, error) {
	running, err := sb.started(ctx)
	if err != nil {
		return nil, sb.fail(op, err)
	}
	return running, nil
}

// usable is started for what is done with files and commands.
func (sb *Sandbox) usable(ctx context.Context) (*sandbox, error) {
	running, err := sb.started(ctx)
	if start, ok := err.(*StartError); ok { //nolint:errorlint // it is what the start failed of
		err = &unusableError{start}
	}
	return running, err
}

// unusableError is a [*StartError] in which errors.Is and errors.As find nothing about files: that a mount's source is not there, say, would be taken for
// what was found of the file, or the program, in the sandbox.
type unusableError struct{ start *StartError }

func (e *unusableError) Error() string { return e.start.Error() }

// Is is errors.Is of the start's error, for other errors.
func (e *unusableError) Is(target error) bool {
	switch target {
	case fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, fs.ErrClosed:
		return false
	}
	_, number := target.(syscall.Errno)
	return !number && errors.Is(e.start, target)
}

// As is errors.As of the start's error, for other types.
func (e *unusableError) As(target any) bool {
	switch target.(type) {
	case **fs.PathError, **os.LinkError, *syscall.Errno:
		return false
	}
	return errors.As(e.start, target)
}

func (sb *Sandbox) fail(op string, err error) error {
	return &SandboxError{Sandbox: sb.ID(), Op: op, Err: err}
}

// started returns the running sandbox; it starts it if nothing has.
func (sb *Sandbox) started(ctx context.Context) (*sandbox, error) {
	switch {
	case ctx == nil:
		return nil, errNilContext
	case sb.wrong() != nil:
		return nil, sb.wrong()
	case ctx.Err() != nil:
		return nil, contextError(ctx)
	}
	sb.mu.Lock()
	if sb.status == Unstarted {
		if err := sb.begin(); err != nil {
			sb.mu.Unlock()
			return nil, err
		}
	}
	status, change := sb.status, sb.change
	sb.mu.Unlock()
	if status == Starting {
		select {
		case <-change:
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
	}
	running, err := sb.runs()
	if err == nil {
		running.endGivenUp()
	}
	return running, err
}

// runs returns the sandbox if it runs.
func (sb *Sandbox) runs() (*sandbox, error) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	switch sb.status {
	case Running:
		return sb.running, nil
	case Unstarted, Starting: // again, for somebody else
		return nil, sb.startErr
	}
	return nil, sb.notRunning()
}

// notRunning says why the sandbox is of no use. Callers hold mu.
func (sb *Sandbox) notRunning() error {
	cause := cmp.Or(sb.cause, errStopped)
	if errors.Is(cause, errStopped) && !sb.session.isOpen() {
		cause = ErrClosed // which stopped it, or would have
	}
	return fmt.Errorf("%w: %w", ErrNotRunning, cause)
}

// whyNotRunning is notRunning for who does not hold mu.
func (sb *Sandbox) whyNotRunning() error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.notRunning()
}

// wasStopped reports whether the sandbox ended, or is to end, because the program stopped it.
func (sb *Sandbox) wasStopped() bool {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return errors.Is(sb.cause, errStopped)
}

// begin begins the start. Callers hold mu.
func (sb *Sandbox) begin() error {
	s := sb.session
	ctx, cancel := context.WithCancel(s.ctx)
	change := make(chan struct{})
	if !s.background(func() {
		defer close(change)
		defer cancel()
		sb.start(ctx)
	}) {
		cancel()
		return ErrClosed
	}
	if sb.id == "" {
		sb.id = s.nextID()
	}
	sb.status, sb.change, sb.cancel = Starting, change, cancel
	return nil
}

func (sb *Sandbox) start(ctx context.Context) {
	begin := time.Now()
	running, err := sb.session.start(ctx, sb.ID, sb.class)
	switch {
	case err == nil:
		sb.session.counts.count(func(own *OwnStats, _ *CommandStats) {
			own.Started++
			own.StartTime += time.Since(begin)
		})
	case ctx.Err() != nil: // stopped, or closed with its session
		err = fmt.Errorf("%w: %w", ErrNotRunning, cmp.Or(context.Cause(sb.session.ctx), errStopped))
	default:
		err = startError(err)
		sb.session.counts.count(func(own *OwnStats, _ *CommandStats) { own.StartsFailed++ })
	}
	sb.mu.Lock()
	wanted := sb.cause == nil // and not stopped meanwhile, perhaps by one who does not wait for it
	switch {
	case err == nil:
		sb.status, sb.running = Running, running
		publish(sb)
		sb.session.guards.Go(func() { sb.watch(running) })
		if !wanted {
			sb.beginStop(sb.end, sb.cause)
		}
	case running != nil: // something is left of it, which a stop is to try again
		sb.status, sb.running, sb.stopErr = Stopping, running, err
		if wanted {
			sb.cause, sb.end = err, Lost
		}
	case wanted:
		sb.status, sb.startErr = Unstarted, err
	default:
		sb.settle()
	}
	status := sb.status
	sb.mu.Unlock()
	if status == Stopped {
		sb.forget()
	}
}

// watch notes that the sandbox has ended by itself.
func (sb *Sandbox) watch(running *sandbox) {
	<-running.Done()
	sb.mu.Lock()
	status := sb.status
	sb.mu.Unlock()
	if status != Running {
		return // it is being stopped
	}
	_ = sb.stop(context.Background(), Lost, sb.ending(running)) // what is left of it; Close tries again
}

// ending is why the sandbox has ended.
func (sb *Sandbox) ending(running *sandbox) error {
	e := endingOf(running.worker.Lost())
	if e.cause == ErrOutOfMemory && sb.session.memoryIsHeld(&sb.class) { //nolint:errorlint // it is this or another one
		e.advice = moreLimitOfOwn
	}
	return &endedError{e}
}

// discard stops a sandbox that has ended, as a call noticed before watch did, or in which a function did not obey.
func (sb *Sandbox) discard(running *sandbox) error {
	var cause error
	select {
	case <-running.Done():
		cause = sb.ending(running)
	default:
		cause = errors.New("a function in it did not end when its context did")
	}
	return sb.stop(context.Background(), Lost, cause)
}

// Stop kills every process of the sandbox, and frees what it holds, its files included. It returns when that is done. A sandbox that has ended is not an error,
// and several callers share one stop. When ctx ends first, Stop returns its error, and the stop goes on. After a stop that
// failed, the next one tries again.
func (sb *Sandbox) Stop(ctx context.Context) error {
	switch {
	case ctx == nil:
		return sb.fail("stop", errNilContext)
	case sb == nil || sb.session == nil:
		return sb.fail("stop", errNotMade)
	case sb.misuse != nil:
		return nil // it was never started
	}
	if err := sb.stop(ctx, Stopped, errStopped); err != nil {
		return sb.fail("stop", err)
	}
	return nil
}

// Close is Stop, which has ten seconds, and one more to say what kept it; for a sandbox of [Run] it also closes its session.
func (sb *Sandbox) Close() error {
	if sb.wrong() == nil && sb.owner {
		return sb.session.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime+hearTime)
	defer cancel()
	return sb.Stop(ctx)
}

// stop ends the sandbox, which then has the status and the cause, unless it has ended before.
func (sb *Sandbox) stop(ctx context.Context, status Status, cause error) error {
	for first := true; ; first = false {
		sb.mu.Lock()
		now, change := sb.status, sb.change
		joined := first && now == Stopping && sb.stopErr == nil
		switch now {
		case Unstarted:
			sb.cause, sb.end = cause, status
			sb.settle()
			sb.mu.Unlock()
			sb.forget()
			return nil
		case Stopped, Lost:
			sb.mu.Unlock()
			return nil
		case Starting:
			sb.cause, sb.end = cause, status
			sb.cancel()
		case Running:
			change = sb.beginStop(status, cause)
		case Stopping:
			if sb.stopErr != nil {
				change = sb.beginStop(status, cause)
			}
		}
		sb.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return contextError(ctx)
		}
		sb.mu.Lock()
		// A try that was under way before may be one that its own caller has given up: what it failed of is not this caller's end.
		failed := sb.status == Stopping && now != Starting && !joined
		err := sb.stopErr
		sb.mu.Unlock()
		if failed && err != nil {
			return err
		}
	}
}

// beginStop begins to stop what runs. The goroutine ends within stopTime. Callers hold mu.
func (sb *Sandbox) beginStop(status Status, cause error) chan struct{} {
	change := make(chan struct{})
	running := sb.running
	sb.status, sb.change, sb.stopErr = Stopping, change, nil
	if sb.cause == nil { // else it is another try
		sb.cause, sb.end = cause, status
		if status == Lost {
			sb.session.counts.count(func(own *OwnStats, _ *CommandStats) { own.Lost++ })
		}
	}
	withdraw(sb)
	sb.session.guards.Go(func() {
		err := sb.session.stopSandbox(running)
		sb.mu.Lock()
		if err == nil {
			sb.settle()
		} else {
			sb.stopErr = err
		}
		sb.mu.Unlock()
		if err == nil {
			sb.forget()
		}
		close(change)
		if err == nil {
			_ = sb.calls.Close() // it has nothing to stop any more
		}
	})
	return change
}

// settle notes the end. Callers hold mu.
func (sb *Sandbox) settle() {
	sb.status, sb.running = sb.end, nil
	close(sb.ended)
}

// forget removes a sandbox that has ended from its sessions.
func (sb *Sandbox) forget() {
	sb.mu.Lock()
	sessions := append([]*Session{sb.session}, sb.adopters...)
	sb.mu.Unlock()
	for _, s := range sessions {
		if s.opened() {
			s.mu.Lock()
			delete(s.own, sb)
			s.mu.Unlock()
		}
	}
}

// Wait waits until the sandbox has ended. Its error is nil if it was stopped, and else says how it ended; or it is ctx's, if that ends first.
func (sb *Sandbox) Wait(ctx context.Context) error {
	switch {
	case ctx == nil:
		return sb.fail("wait", errNilContext)
	case sb.wrong() != nil:
		return sb.fail("wait", sb.wrong())
	}
	select {
	case <-sb.ended:
	case <-ctx.Done():
		return sb.fail("wait", contextError(ctx))
	}
	sb.mu.Lock()
	status, cause := sb.status, sb.cause
	sb.mu.Unlock()
	if status == Stopped {
		return nil
	}
	return sb.fail("wait", fmt.Errorf("it ended by itself: %w", cause))
}

// stopOwn stops the sandboxes that don't belong to the pool, all at the same time.
func (s *Session) stopOwn() error {
	s.mu.Lock()
	var own []*Sandbox
	for sb := range s.own {
		own = append(own, sb)
	}
	s.mu.Unlock()
	errs := make([]error, len(own))
	var stops sync.WaitGroup
	for i, sb := range own {
		stops.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), stopTime+hearTime)
			defer cancel()
			errs[i] = sb.Stop(ctx)
		})
	}
	stops.Wait()
	return errors.Join(errs...)
}

// lostTime is how long a worker whose connection broke has to be known as lost.
const lostTime = 5 * time.Second

// remoteError is why an operation on a running sandbox failed that the worker did not answer.
func (sb *Sandbox) remoteError(ctx context.Context, running *sandbox, err error) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	switch status.Code(err) {
	case codes.Unimplemented:
		return errors.New("this driver's sandboxes neither run commands nor have files of their own; use another driver")
	case codes.ResourceExhausted:
		return fmt.Errorf("the sandbox sent a message that is too long: %w", err)
	}
	timer := time.NewTimer(lostTime)
	defer timer.Stop()
	select {
	case <-running.Done():
	case <-ctx.Done(): // the worker may have noticed first that the deadline has passed
		return contextError(ctx)
	case <-timer.C: // it is being stopped, which takes long, or nobody knows
		sb.mu.Lock()
		defer sb.mu.Unlock()
		if sb.cause == nil {
			return err
		}
		return sb.notRunning()
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.cause == nil { // it ended a moment ago
		return fmt.Errorf("%w: %w", ErrNotRunning, sb.ending(running))
	}
	return sb.notRunning()
}

// client is the running sandbox's service.
func (r *sandbox) client() wirepb.SandboxClient { return r.worker.Sandbox() }
