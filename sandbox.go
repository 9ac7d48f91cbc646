package sbx

import (
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
