// Package pool keeps warm members, sandboxes in practice, and leases places in them. Its audience is package sbx.
//
// Members belong to classes, which share one maximum. A member runs as many leases at a time as its class says. One is made
// when somebody waits for its class and there is room; where there is none, a member of another class makes room. A place is not used
// again before the member that had it has stopped.
//
// Whoever waits belongs to a flow. Flows of a class take turns; within a flow those who came first are served first. Classes share the
// places: one that has fewer gets the next that is free, and one that has none takes the place of another one's member when that
// has served for long enough to be worth its start.
//
// When every member is busy, who waits may be given a lease ahead: a place in a busy member's own queue, so that the next
// call is there already when the one before it ends. Such a lease binds nobody: when another member has nothing to do, it
// takes the lease over, and where none ever is, because others come, who has waited for long goes back to its place in the queue.
//
// What the pool decides costs the logarithm of the number of members, classes and waiters: each choice is the first of an [index].
//
// Goroutines: one for every member that is being made, checked or stopped, and one for every member that watches for its
// end. [Pool.Close] waits for all of them.
package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// stopAgain is the time between two tries to stop a member.
	stopAgain = time.Second
	// stuckAfter is how long after the first try a member that does not stop is waited for.
	stuckAfter = 30 * time.Second
	// checkAfter is how long a member may be idle and still be leased without a check, and checkTime how long a check may take.
	checkAfter = time.Second
	checkTime  = 5 * time.Second
	// patience is how long a lease may be ahead while others wait in the queue, and how long somebody may wait whose class has its share of
	// the places.
	patience = time.Second
)

// ErrClosed is returned by Wait after Close began.
var ErrClosed = errors.New("pool closed")

// Member is what a pool keeps.
type Member interface {
	comparable
	// Done is closed when the member is of no use any more.
	Done() <-chan struct{}
	// Check returns an error if the member is of no use, although Done may not know.
	Check(ctx context.Context) error
	// Queues reports whether the member can take a lease ahead. It must not block.
	Queues() bool
}

// Limits are the bounds of a class.
type Limits struct {
	// Concurrency is how many leases run in a member at a time, at least 1.
	Concurrency int
	// Ahead is how many leases may wait in a busy member.
	Ahead int
	// Uses is after how many leases a member is stopped; 0 is never.
	Uses int
	// Age and Idle are how long a member may live, and be idle; 0 is for ever. A lease is not cut short.
	Age, Idle time.Duration
	// Spare says that a member for the next lease is started for each lease that runs. It is for members that serve once.
	Spare bool
	// Own says that whoever uses the pool owns the members, and gets no others for them: none is stopped on suspicion, of timeouts or of silence.
	Own bool
}

// Backend makes and ends members.
type Backend[C comparable, M Member] struct {
	// Open makes a member; its context ends with the pool. What it returns with an error is left of a member that could not be
	// made, and is to be stopped.
	Open func(ctx context.Context, class C) (M, error)
	// Stop ends one, within bounds of its own, and frees what it holds. It may be called again after it failed.
	Stop func(M) error
	// Limits are a class's.
	Limits func(C) Limits
	// Failed is told when a member that nobody waits for could not be made, the first time after one could. It may be nil.
	Failed func(class C, err error)
	// StartsAtOnce is how many members are being made at a time at most; 0 is any number.
	StartsAtOnce int
}

// Pool is a set of members. Its methods may be called at the same time.
type Pool[C comparable, M Member] struct {
	backend Backend[C, M]

	ctx     context.Context // of everything that is opened
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Mutex // one Close at a time

	mu      sync.Mutex
	closed  bool
	maximum int
	places  []*place[C, M] // all that are taken
	count   counts         // of them
	groups  map[C]*group[C, M]
	idle    index[*place[C, M]] // members with nothing to do, the one that was used last at the end
	kept    index[*place[C, M]] // the same, of groups with a minimum
	wanting index[*group[C, M]] // groups that could use another place, the one with the fewest first
	several index[*group[C, M]] // groups whose members run several leases at a time, the one with the most places first
	waits   index[*group[C, M]] // groups that wait for the leases of members which are to make room for them
	lacking index[*group[C, M]] // groups that are to have members which nobody waits for
	changed []*group[C, M]      // those that others changed
	need    int                 // places that the wanting groups could use
	freeing int                 // places that are about to be free, for whoever wants them
	failing int                 // members that could not be stopped so far
	shrinks []*place[C, M]      // members that get no lease any more because there are too many
	looked  time.Time           // for leases ahead that have waited for long
	wake    *time.Timer         // when a member has served for long enough to make room
	wakeAt  time.Time           // zero if wake is not set
	ticks   uint64              // counts what is ordered by when it happened
	stats   Stats
}

// New returns a pool of at most maximum members.
func New[C comparable, M Member](maximum int, backend Backend[C, M]) *Pool[C, M] {
	type (
		member = *place[C, M]
		kind   = *group[C, M]
	)
	p := &Pool[C, M]{
		maximum: maximum, backend: backend, groups: map[C]kind{},
		idle:    newIndex(func(m member) *int { return &m.at[byIdle] }, func(a, b member) bool { return a.used < b.used }),
		kept:    newIndex(func(m member) *int { return &m.at[byKept] }, func(a, b member) bool { return a.used < b.used }),
		wanting: newIndex(func(g kind) *int { return &g.at[byWanting] }, kind.before),
		waits:   newIndex(func(g kind) *int { return &g.at[byDraining] }, kind.before),
		several: newIndex(func(g kind) *int { return &g.at[bySeveral] }, func(a, b kind) bool { return a.holds > b.holds }),
		lacking: newIndex(func(g kind) *int { return &g.at[byLacking] }, func(a, b kind) bool { return a.lack > b.lack }),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Count returns how many members there are, those that are being made or stopped included.
func (p *Pool[C, M]) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.places)
}

// Maximum is how many members there may be.
func (p *Pool[C, M]) Maximum() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.maximum
}

// SetMaximum changes how many members there may be, at least 1. Where there are more, idle ones are stopped, and busy ones when they
// have nothing to do.
func (p *Pool[C, M]) SetMaximum(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.maximum = n
	for _, g := range p.groups {
		p.balance(g)
	}
}

// Keep has the pool make members of class, in the background, until there are n, whenever there are fewer, and not stop them for being
// idle. They make room only for a class that has no member at all.
func (p *Pool[C, M]) Keep(class C, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.group(class)
	g.minimum = n
	for _, place := range p.places {
		p.index(place)
	}
	p.reckon(g)
	p.balance(g)
}

// Close refuses new leases, tells those who wait, ends what is being made, stops all members at the same time, leased
// ones too, and waits for all of it. The error joins what failed to stop; calling Close again tries that again.
func (p *Pool[C, M]) Close() error {
	p.closing.Lock()
	defer p.closing.Unlock()
	p.mu.Lock()
	p.closed = true
	p.cancel()
	if p.wake != nil {
		p.wake.Stop()
	}
	for _, g := range p.groups {
		p.failAll(g, ErrClosed)
		p.unhold(g)
	}
	for _, place := range slices.Clone(p.places) {
		if place.state == open {
			p.discard(place, nil)
		}
	}
	p.mu.Unlock()
	p.tasks.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, place := range p.places {
		errs = append(errs, fmt.Errorf("%v is left: %w", place.m, place.err))
		p.become(place, open) // so that the next Close tries again
	}
	return errors.Join(errs...)
}

func isDone[M Member](m M) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}
