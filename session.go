package sbx

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/worker"
)

// stopTime bounds the stop of a sandbox, and of what the driver keeps, in Close. The latter has eachTime more for each sandbox: what they were in an engine or a
// cluster goes one after the other. hearTime is for a stop that failed at the end of its time, to say of what.
const (
	stopTime = 10 * time.Second
	hearTime = time.Second
	eachTime = 250 * time.Millisecond
)

// Session keeps sandboxes, and wraps the functions that run in them. Its methods may be called at the same time.
//
// Goroutines: those of its pool, which with [MinSandboxes] are there from the begin, one for each call that was spawned or is part of a map, one for a map's input, one for each call whose
// context ended before the call did, one for the second run of a call ([Hedge]), one for each start and stop of a sandbox of [Session.Sandbox] and one that waits for its end, one for a
// secret that is read, one that writes a map's [Journal], one for what [ShowProgress] shows or a few for a bar, one of a [Watchdog] and, for a moment, one for each call that it asks after, and one that calls the logger's handler. Close waits for all that it can end: not for a
// handler, an input, a writer of [ShowProgress], a secret's source or user code of a call that block.
type Session struct {
	id      string
	config  openConfig
	backend driver.Session
	pool    *pool.Pool[class, *sandbox]
	logs    *launch.Logs
	log     *slog.Logger // for messages of the session's own; never waits
	workers *workers
	counts  counts
	calls   calls

	hedged, hedgesWon atomic.Uint64

	ctx    context.Context // ends when Close begins
	cancel context.CancelCauseFunc

	closing sync.Mutex // one Close at a time
	settled bool       // Close succeeded; guarded by closing

	mu       sync.Mutex
	closed   bool
	draining bool
	active   int           // calls and maps
	drained  chan struct{} // closed when none is active any more; nil if nobody asked
	serial   int           // of sandboxes
	live     map[string]*sandbox
	own      map[*Sandbox]struct{} // those that Close stops beside the pool's
	warned   map[string]bool       // of limits, by name
	tasks    sync.WaitGroup
	guards   sync.WaitGroup // of the sandboxes in own; each ends with its sandbox
}

// Open begins a session. It makes no sandbox yet, but fails if none can be made here. ctx bounds Open only. Close the
// session when it is no longer needed.
//
// In a program that runs in a sandbox Open fails with [ErrInSandbox]: package variables and init functions run there
// too, so open sessions in main.
func Open(ctx context.Context, opts ...OpenOption) (*Session, error) {
	if ctx == nil {
		return nil, fmt.Errorf("sbx: open: %w", errNilContext)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("sbx: open: %w", contextError(ctx))
	}
	if worker.Active() {
		return nil, fmt.Errorf("sbx: open: %w; open them in main, which does not run there", ErrInSandbox)
	}
	config, err := newOpenConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("sbx: open: %w", err)
	}
	if config.driver == nil {
		config.driver = defaultDriver()
	}
	s := &Session{id: newID(), config: config, workers: &workers{openConfig: config}, live: map[string]*sandbox{}, own: map[*Sandbox]struct{}{}, warned: map[string]bool{}}
	s.calls.begin = time.Now()
	s.logs = launch.NewLogs(config.logger.Handler(), config.level)
	s.log = s.logs.Own()
	s.backend, err = config.driver.Open(ctx, driver.SessionSpec{ID: s.id, Worker: s.workers.find, Logger: s.log})
	if err != nil {
		s.logs.Close()
		return nil, fmt.Errorf("sbx: open: %w", errors.Join(err, s.workers.Close()))
	}
	if err := s.accept(); err != nil {
		stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		defer s.logs.Close()
		return nil, fmt.Errorf("sbx: open: %w", errors.Join(err, s.backend.Close(stopCtx), s.workers.Close()))
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.pool = pool.New(config.maxSandboxes, pool.Backend[class, *sandbox]{
		Open: s.openSandbox, Stop: s.stopSandbox, Limits: func(c class) pool.Limits { return c.limits },
		Failed: s.keepFailed, StartsAtOnce: config.startsAtOnce,
	})
	if config.minSandboxes > 0 {
		s.pool.Keep(config.spec.class(), config.minSandboxes)
	}
	if config.watchdog > 0 {
		s.background(func() { (&watchdog{session: s, after: config.watchdog}).run(s.ctx) })
	}
	return s, nil
}

var errNotOpened = &OptionError{Option: "the session", Reason: "was not opened; use what sbx.Open returned, and look at its error first"}

// opened reports whether Open made the session.
func (s *Session) opened() bool { return s != nil && s.pool != nil }

// isOpen reports whether Close has not begun.
func (s *Session) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed
}

func newID() string { return "s-" + strings.ToLower(rand.Text()[:12]) }

// SandboxCount returns how many sandboxes the session has: those of its pool, those of [Session.Sandbox] whether they were started or not, and
// those that it adopted; not those that have ended.
func (s *Session) SandboxCount() int {
	if !s.opened() {
		return 0
	}
	s.mu.Lock()
	own := len(s.own)
	s.mu.Unlock()
	return s.pool.Count() + own
}

// Close ends the session: new calls fail with [ErrClosed], calls that run are cancelled, and every sandbox is stopped, at
// the same time and within ten seconds each; what the driver has to tidy up after them has ten seconds and a quarter of a second for each, and what was not
// stopped in its time may have been ended by that, which has ten seconds again to be seen. Close returns when that is done, and the [Logger] has what was logged. A second caller waits for the first; calling
// Close again is safe, and tries again what failed.
func (s *Session) Close() error {
	if !s.opened() {
		return fmt.Errorf("sbx: close: %w", errNotOpened)
	}
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.settled {
		return nil
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(ErrClosed)
	sandboxes := s.SandboxCount()
	err := s.stopAll()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime+time.Duration(sandboxes)*eachTime)
	defer cancel()
	closed := s.backend.Close(ctx)
	if err != nil && closed == nil {
		err = s.stopAll() // the driver has ended what was not stopped in its time
	}
	err = errors.Join(err, closed, s.workers.Close())
	s.logs.Close()
	if err != nil {
		return fmt.Errorf("sbx: close session %s: %w", s.id, err)
	}
	s.guards.Wait()
	s.settled = true
	return nil
}

// stopAll stops the session's sandboxes, and waits for its tasks.
func (s *Session) stopAll() error {
	var own error
	s.tasks.Go(func() { own = s.stopOwn() })
	err := s.pool.Close()
	s.tasks.Wait()
	return errors.Join(own, err)
}

// Shutdown refuses new calls, maps and commands, which fail with [ErrClosed], waits until those that have begun are done, and closes the
// session. It does not wait for what is done with files, which fails then. When ctx ends first, what runs is cancelled, and Shutdown returns ctx's error
// beside Close's. Within a loop over a map of the session it would wait for itself.
func (s *Session) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("sbx: shut down: %w", errNilContext)
	}
	if !s.opened() {
		return fmt.Errorf("sbx: shut down: %w", errNotOpened)
	}
	s.mu.Lock()
	s.draining = true
	if s.drained == nil {
		s.drained = make(chan struct{})
		if s.active == 0 {
			close(s.drained)
		}
	}
	s.mu.Unlock()
	var err error
	select {
	case <-s.drained:
	case <-s.ctx.Done(): // Close is at work
	case <-ctx.Done():
		s.mu.Lock()
		if s.active > 0 { // else they were done at the same time, or there were none
			err = fmt.Errorf("sbx: shut down session %s with calls and maps that were not done (%d): %w", s.id, s.active, contextError(ctx))
		}
		s.mu.Unlock()
	}
	return errors.Join(err, s.Close())
}

// enter counts a call or a map that begins. It returns false if the session takes none any more; else leave must follow.
func (s *Session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return false
	}
	s.active++
	return true
}

func (s *Session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 && s.draining {
		close(s.drained)
	}
}

// Prewarm starts sandboxes until there are n of those that opts describe, over the session's defaults, and waits for them, so
// that calls of functions with the same options find them ready. n is at most what [MaxSandboxes] allows; sandboxes of
// other kinds keep their places. When ctx ends first, Prewarm returns its error, and what was begun goes on.
func (s *Session) Prewarm(ctx context.Context, n int, opts ...SandboxOption) error {
	var wanted spec
	var err error
	switch {
	case ctx == nil:
		err = errNilContext
	case !s.opened():
		err = errNotOpened
	default:
		wanted, err = newSandboxSpec(s.config.spec, opts)
	}
	switch {
	case err != nil:
	case n < 1 || n > s.pool.Maximum():
		err = &OptionError{Option: "Prewarm", Reason: fmt.Sprintf("is asked for %d sandboxes; give 1 to %d, the session's MaxSandboxes", n, s.pool.Maximum())}
	case !s.enter():
		err = ErrClosed
	default:
		defer s.leave()
		switch err = s.pool.Prewarm(ctx, wanted.class(), n); {
		case err == pool.ErrClosed: //nolint:errorlint // what starts failed of may be anything
			err = ErrClosed
		case err != nil && isDone(ctx) && errors.Is(err, ctx.Err()):
			err = contextError(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("sbx: prewarm: %w", err)
	}
	return nil
}

// SetMaxSandboxes changes how many sandboxes the session may have at a time, as [MaxSandboxes] does when it opens. n must be from 1 to 1,000,000, and not less than
// [MinSandboxes]. It returns at once. With a higher number, calls that wait get sandboxes. With a lower one, idle sandboxes are stopped, and busy ones
// when the calls are done that they have; nothing is cancelled. How far ahead a map takes its inputs depends on the number at its begin.
func (s *Session) SetMaxSandboxes(n int) error {
	var err error
	switch {
	case !s.opened():
		err = errNotOpened
	case n < 1 || n > most:
		err = &OptionError{Option: "SetMaxSandboxes", Reason: fmt.Sprintf("is asked for %d; give 1 to %d", n, most)}
	case n < s.config.minSandboxes:
		err = &OptionError{Option: "SetMaxSandboxes", Reason: fmt.Sprintf("is asked for %d; give %d or more, the session's MinSandboxes", n, s.config.minSandboxes)}
	case !s.isOpen():
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("sbx: set the maximum of sandboxes: %w", err)
	}
	s.pool.SetMaximum(n)
	return nil
}

// keepFailed tells that sandboxes could not be started for which no call waits.
func (s *Session) keepFailed(_ class, err error) {
	s.log.Warn("sandboxes that are kept ready (sbx.MinSandboxes, sbx.Fresh) can't be started; this is tried again, and said once", "error", err)
}

// String is the session's id and state.
func (s *Session) String() string {
	if !s.opened() {
		return "session that was not opened"
	}
	count, state := s.SandboxCount(), "open"
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		state = "closed"
	}
	return fmt.Sprintf("session %s (%s, sandboxes: %d)", s.id, state, count)
}

// GoString is String: the session's options may be secret, and are not for %#v to print.
func (s *Session) GoString() string { return s.String() }

// background runs task on a goroutine that Close waits for. It returns false, and does not run it, once Close began.
func (s *Session) background(task func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.tasks.Go(task)
	return true
}

// startTries is how often a sandbox is started that somebody else ends while it starts.
const startTries = 3

// openSandbox makes a sandbox of a class, with a worker that is ready for calls. Its error is a [*StartError].
func (s *Session) openSandbox(ctx context.Context, class class) (*sandbox, error) {
	sb, err := s.start(ctx, s.nextID, class)
	if err != nil {
		err = startError(err)
	}
	return sb, err
}

// endedByOthers tells whether what ended a sandbox that was starting has nothing to do with what it is, so that another one may come up.
func endedByOthers(err error) bool {
	var failed *launch.StartError
	var outside interface{ EndedByOthers() bool } // a driver's word
	return errors.As(err, &failed) && failed.Shot() || errors.As(err, &outside) && outside.EndedByOthers()
}

// nextID is the id of one more sandbox.
func (s *Session) nextID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return fmt.Sprintf("%s-%d", s.id, s.serial)
}

// start makes a sandbox of a class, with a worker that is ready for calls. Each try has an id from id.
func (s *Session) start(ctx context.Context, id func() string, class class) (*sandbox, error) {
	for try := 1; ; try++ {
		name := id()
		sb, err := s.startOnce(ctx, name, class)
		if err == nil || sb != nil || ctx.Err() != nil || try == startTries || !endedByOthers(err) {
			return sb, err
		}
		s.log.Info("a sandbox was ended by somebody else while it started; another one is started", "sandbox", name, "error", err)
	}
}

func (s *Session) startOnce(ctx context.Context, id string, class class) (*sandbox, error) {
	s.warnOfLimits(class.should)
	environ, tags, mounts := class.parse()
	secret, err := class.secrets.environ(ctx)
	if err != nil {
		return nil, err
	}
	environ = append(environ, secret...)
	sb, err := startSandbox(ctx, s.backend, driver.Spec{ID: id, Tags: tags, Env: environ, Image: class.image, Mounts: mounts, Limits: class.must, Soft: class.should}, launch.Config{
		Session: s.id, Sandbox: id, Divert: worker.Diverts(), Concurrency: class.limits.Concurrency, Lease: s.config.lease,
		Logs: s.logs, Output: s.config.writers(id),
	})
	if err == nil {
		s.mu.Lock()
		s.live[id] = sb
		s.mu.Unlock()
	}
	return sb, err
}

func (s *Session) stopSandbox(sb *sandbox) error {
	s.mu.Lock()
	delete(s.live, sb.id)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	return sb.Stop(ctx)
}
