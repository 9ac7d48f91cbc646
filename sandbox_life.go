package sbx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Start starts the sandbox, if nothing has, and returns when it runs. Those who wait at the same time share one start; it goes on when ctx, which bounds only
// the wait, ends. After a start that failed the next use tries again.
func (sb *Sandbox) Start(ctx context.Context) error {
	_, err := sb.use(ctx, "start")
	return err
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
