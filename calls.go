package sbx

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// CallState is what a call does or waits for.
type CallState int

const (
	// CallWaiting is a call that waits for a sandbox.
	CallWaiting CallState = iota
	// CallStarting is a call that waits for a sandbox while one of its kind is being started.
	CallStarting
	// CallQueued is a call that was sent to a busy sandbox, and waits there.
	CallQueued
	// CallRunning is a call that was sent to a sandbox and is next there, or runs.
	CallRunning
)

func (s CallState) String() string {
	if s < CallWaiting || s > CallRunning {
		return fmt.Sprintf("CallState(%d)", int(s))
	}
	return [...]string{"waiting", "starting", "queued", "running"}[s]
}

// CallStatus is what is known of a call that has not ended.
type CallStatus struct {
	// Function is the function's name, Call the call's id.
	Function, Call string
	// Index is the input's place in a map; -1 if the call is not part of one.
	Index int
	// Attempt counts the runs of the call from 1; 0 while it waits for its first sandbox.
	Attempt int
	// State is what the call does or waits for, and Since when it began to.
	State CallState
	Since time.Time
	// Sandbox is the id of the sandbox that the call was sent to; empty while it waits for one.
	Sandbox string
	// Progress is the latest that the function has told, in this attempt.
	Progress CallProgress
}

// calls are those of a session that are under way: a list, because it is changed with each call, and seldom read.
type calls struct {
	begin time.Time // from which times count here, since a clock that does not know the day costs half
	mu    sync.Mutex
	first *request
}

// underway is a request's place among its session's calls. It is guarded by the calls' mu.
type underway struct {
	previous, next *request
	f              *function
	class          *class
	attempt        int
	since          time.Duration // when it was queued, or sent
	lease          *lease        // nil while it waits for one
	sandbox        *sandbox
	pending        *launch.Pending // the last that was sent; kept
}

// enter notes that a request is queued.
func (c *calls) enter(f *function, r *request) {
	now := time.Since(c.begin)
	c.mu.Lock()
	defer c.mu.Unlock()
	r.underway.f, r.underway.class, r.underway.since = f, r.class, now
	if r.underway.next = c.first; c.first != nil {
		c.first.underway.previous = r
	}
	c.first = r
}

// sent notes that a request was sent to a sandbox.
func (c *calls) sent(r *request, l *lease, sb *sandbox, pending *launch.Pending) {
	if r.told != nil {
		pending.Follow(r.told)
	}
	now := time.Since(c.begin)
	c.mu.Lock()
	defer c.mu.Unlock()
	u := &r.underway
	u.attempt, u.since, u.lease, u.sandbox, u.pending = r.attempt, now, l, sb, pending
}

// waits notes that a request which was sent is queued again, or about to end.
func (c *calls) waits(r *request) {
	now := time.Since(c.begin)
	c.mu.Lock()
	defer c.mu.Unlock()
	u := &r.underway
	u.class, u.attempt, u.since, u.lease, u.sandbox = r.class, r.attempt, now, nil, nil
}

// leave notes that a request has ended.
func (c *calls) leave(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := &r.underway
	if u.previous == nil {
		c.first = u.next
	} else {
		u.previous.underway.next = u.next
	}
	if u.next != nil {
		u.next.underway.previous = u.previous
	}
	u.previous, u.next, u.lease, u.sandbox = nil, nil, nil, nil
}

// progress is the latest that a request's function told; nil if nothing.
func (c *calls) progress(r *request) *launch.Progress {
	c.mu.Lock()
	pending := r.underway.pending
	c.mu.Unlock()
	if pending == nil {
		return nil
	}
	return pending.Progress()
}

// look is a call that was under way when somebody looked.
type look struct {
	CallStatus
	underway underway
	request  *request
	queued   time.Time // if it waits for a sandbox
	others   int       // that wait like it; see crowds
	view     pool.View // of what it waits for
}

// looks returns the calls that have been under way, or in a sandbox, since before then.
func (c *calls) looks(before time.Time) []look {
	var looks []look
	c.mu.Lock()
	limit := before.Sub(c.begin)
	for r := c.first; r != nil; r = r.underway.next {
		if u := r.underway; u.since <= limit {
			looks = append(looks, look{CallStatus: CallStatus{Call: r.id, Index: r.index, Attempt: u.attempt, Since: c.begin.Add(u.since)}, underway: u, request: r})
		}
	}
	c.mu.Unlock()
	// The pools and the workers have locks of their own.
	type kind struct {
		pool  *pool.Pool[class, *sandbox]
		class class
	}
	views := map[kind]pool.View{}
	for i := range looks {
		l := &looks[i]
		l.Function = l.underway.f.name()
		if l.underway.lease != nil {
			l.sentTo()
			continue
		}
		k := kind{l.underway.f.sandboxes(), *l.underway.class}
		view, ok := views[k]
		if !ok {
			view = k.pool.View(k.class)
			views[k] = view
		}
		l.queued, l.view = l.Since, view
		if since := view.StartingSince; !since.IsZero() {
			l.State = CallStarting
			if since.After(l.Since) {
				l.Since = since
			}
		}
	}
	return looks
}

// sentTo fills in what is known of a call that was sent.
func (l *look) sentTo() {
	l.Sandbox = l.underway.sandbox.id
	ahead, until := l.underway.lease.Ahead()
	switch {
	case ahead:
		l.State = CallQueued
	default:
		l.State = CallRunning
		if until.After(l.Since) {
			l.Since = until
		}
	}
	l.Progress = newCallProgress(l.underway.pending.Progress())
}

// Calls returns the calls of the session that have not ended, in no order: those that run, and those that wait, for a sandbox or in one. Calls
// that [Intercept] holds are not among them, nor those that were cancelled and whose function has not returned yet. Of one that runs twice ([Hedge]) the first run is told.
// What is known of them may have changed when Calls returns.
func (s *Session) Calls() []CallStatus {
	if !s.opened() {
		return nil
	}
	looks := s.calls.looks(time.Now())
	statuses := make([]CallStatus, len(looks))
	for i, l := range looks {
		statuses[i] = l.CallStatus
	}
	return statuses
}

// Stacks is [Call.Stacks] for any call of the session, one of a map say, by its id.
func (s *Session) Stacks(ctx context.Context, call string) ([]byte, error) {
	if !s.opened() {
		return nil, fmt.Errorf("sbx: stacks of call %s: %w", call, errNotOpened)
	}
	sb, found := s.calls.where(call)
	switch {
	case !found:
		return nil, fmt.Errorf("sbx: stacks of call %s: %w", call, ErrNoCall)
	case sb == nil:
		return nil, fmt.Errorf("sbx: stacks of call %s: %w", call, errNotSent)
	}
	return profile(ctx, sb, "goroutine", 0, 2)
}

// where is the sandbox of a call that is under way; nil while it waits for one.
func (c *calls) where(call string) (sb *sandbox, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := c.first; r != nil; r = r.underway.next {
		if r.id == call {
			return r.underway.sandbox, true
		}
	}
	return nil, false
}
