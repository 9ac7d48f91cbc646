package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Leases of random classes come and go, some last for ever, members end and can't be made, and the maximum changes. When all is quiet, nobody waits who
// could be served.
func TestNobodyWaitsInVain(t *testing.T) {
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1 << 40)
	}
	for i := range uint64(300) {
		synctest.Test(t, func(t *testing.T) { newVain(t, first+i).run() })
		if t.Failed() {
			t.Fatalf("seed %d", first+i)
		}
	}
}

// vain is one of these runs.
type vain struct {
	t      *testing.T
	random *rand.Rand
	yard   *yard
	limits []Limits
	keep   int
	pool   *Pool[int, *box]
	luck   error // what one of some starts fails with
	ctx    context.Context
	stop   context.CancelFunc
	leases sync.WaitGroup
}

func newVain(t *testing.T, seed uint64) *vain {
	v := &vain{t: t, random: rand.New(rand.NewPCG(seed, 0)), luck: errors.New("bad luck")}
	v.ctx, v.stop = context.WithCancel(t.Context())
	v.yard = &yard{openTime: v.upTo(2 * time.Second), stopTime: v.upTo(time.Second / 2)}
	for range 1 + v.random.IntN(8) {
		v.limits = append(v.limits, v.anyLimits())
	}
	maximum := 1 + v.random.IntN(8)
	v.pool = New(maximum, Backend[int, *box]{
		Open: v.open, Stop: func(b *box) error { return v.yard.stop(b) }, Limits: func(class int) Limits { return v.limits[class] }, StartsAtOnce: v.random.IntN(3),
	})
	if v.random.IntN(3) == 0 {
		v.keep = 1 + v.random.IntN(maximum)
		v.limits[0].Age = 0 // else they are made again and again
		v.pool.Keep(0, v.keep)
	}
	return v
}

func (v *vain) upTo(d time.Duration) time.Duration {
	return time.Duration(1 + v.random.Int64N(int64(d)))
}

func (v *vain) anyLimits() Limits {
	l := Limits{Concurrency: 1, Ahead: v.random.IntN(9)}
	switch v.random.IntN(4) {
	case 0:
		l.Ahead, l.Uses, l.Spare = 0, 1, true
	case 1:
		l.Concurrency = 2 + v.random.IntN(3)
	case 2:
		l.Uses = v.random.IntN(6)
	}
	if v.random.IntN(4) == 0 {
		l.Idle = v.upTo(5 * time.Second)
	}
	if v.random.IntN(5) == 0 {
		l.Age = v.upTo(8 * time.Second)
	}
	return l
}

func (v *vain) open(ctx context.Context, _ int) (*box, error) {
	v.yard.mu.Lock()
	luck := v.luck
	v.yard.mu.Unlock()
	if luck != nil && rand.IntN(10) == 0 {
		return nil, luck
	}
	return v.yard.open(ctx, "x")
}

func (v *vain) run() {
	gap := v.upTo(time.Second / 3)
	for range 5 + v.random.IntN(250) {
		v.come()
		time.Sleep(v.upTo(gap))
		v.meddle()
		v.pool.mu.Lock()
		v.checkOrder()
		v.pool.mu.Unlock()
	}
	v.yard.mu.Lock()
	v.luck = nil
	v.yard.mu.Unlock()
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	v.pool.mu.Lock()
	v.checkWaiting()
	v.pool.mu.Unlock()
	v.stop()
	v.leases.Wait()
	time.Sleep(time.Hour)
	synctest.Wait()
	v.pool.mu.Lock()
	v.checkRest()
	v.pool.mu.Unlock()
	require.NoError(v.t, v.pool.Close())
	assert.Zero(v.t, v.yard.alive)
}

// come takes a lease, or waits for one.
func (v *vain) come() {
	class, flow, ahead, end := v.random.IntN(len(v.limits)), v.random.IntN(3), v.random.IntN(2) == 0, v.random.IntN(14)
	d := v.upTo(time.Second)
	ctx, cancel := v.ctx, context.CancelFunc(func() {})
	if v.random.IntN(10) == 0 {
		ctx, cancel = context.WithTimeout(v.ctx, 2*d)
	}
	v.leases.Go(func() {
		defer cancel()
		l, err := running(ctx, v.pool.Queue(class, flow, ahead))
		if err != nil {
			return
		}
		if end > 0 {
			time.Sleep(d)
		} else {
			<-v.ctx.Done()
		}
		switch end {
		case 1:
			l.Release(false)
		case 2:
			l.ReleaseSuspect()
		case 3:
			l.Member().end()
			l.Release(true)
		default:
			l.Release(true)
		}
	})
}

// meddle does what a program may do beside its calls.
func (v *vain) meddle() {
	switch class, n := v.random.IntN(len(v.limits)), 1+v.random.IntN(8); v.random.IntN(25) {
	case 0:
		v.pool.SetMaximum(max(v.keep, n))
	case 1:
		v.leases.Go(func() {
			ctx, cancel := context.WithTimeout(v.ctx, 5*time.Second)
			defer cancel()
			_ = v.pool.Prewarm(ctx, class, n) // whether there is room or not
		})
	case 2:
		if l, _ := v.pool.Spare(class, nil); l != nil {
			l.Sent(nil)
			time.AfterFunc(time.Second, func() { l.Release(true) })
		}
	}
}

// checkOrder looks whether the indexes are in order.
func (v *vain) checkOrder() {
	p := v.pool
	for name, ok := range map[string]bool{
		"idle": inOrder(p.idle), "kept": inOrder(p.kept), "wanting": inOrder(p.wanting), "waits": inOrder(p.waits), "several": inOrder(p.several), "lacking": inOrder(p.lacking),
	} {
		assert.True(v.t, ok, name)
	}
	for _, m := range p.places {
		assert.False(v.t, m.state == open && m.draining && m.empty(), "a member has nothing to do, and its leases are waited for")
	}
	for _, g := range p.groups {
		assert.True(v.t, inOrder(g.waiting) && inOrder(g.free) && inOrder(g.roomy) && inOrder(g.loaded) && inOrder(g.load), "a group's")
	}
}

func inOrder[T any](x index[T]) bool {
	for i, item := range x.h.items {
		if *x.h.slot(item) != i+1 || i > 0 && x.h.before(item, x.h.items[(i-1)/2]) {
			return false
		}
	}
	return true
}

// checkWaiting looks whether those who still wait have a reason to.
func (v *vain) checkWaiting() {
	v.checkOrder()
	p := v.pool
	assert.False(v.t, p.excess() < 0 && len(p.shrinks) > 0, "a member is to end, and there are not too many")
	for _, m := range p.places {
		if p.excess() > 0 && !m.leaving() {
			assert.False(v.t, m.empty() || m.group.limits.Concurrency > 1, "there are too many")
		}
	}
	for class, g := range p.groups {
		if g.waiting.len() == 0 {
			continue
		}
		assert.Zero(v.t, p.room(), "class %d waits", class)
		for _, m := range p.places {
			kept := m.group.minimum > 0 && m.group.holding() <= m.group.minimum && g.serving() > 0
			assert.Equal(v.t, open, m.state)
			switch {
			case m.leaving(), m.tooOld():
			case m.group == g:
				assert.Equal(v.t, g.limits.Concurrency, m.running, "class %d waits and has a place", class)
			case p.excess() <= 0 && !kept:
				assert.False(v.t, m.empty(), "class %d waits and one of class %d has nothing to do", class, m.group.class)
			}
		}
	}
}

// checkRest looks whether nothing is left but members that have nothing to do.
func (v *vain) checkRest() {
	p := v.pool
	assert.Zero(v.t, p.need+p.freeing+p.failing+len(p.shrinks)+p.wanting.len()+p.waits.len())
	assert.LessOrEqual(v.t, len(p.places), p.maximum)
	assert.Equal(v.t, len(p.places), p.count[open])
	for _, g := range p.groups {
		assert.Zero(v.t, g.running+g.ahead+g.movable+g.heirs+g.draining+g.need+g.waiting.len()+len(g.flows)+len(g.drains), "class %d", g.class)
		if g.class == 0 && p.room() > 0 {
			assert.GreaterOrEqual(v.t, g.holding(), v.keep)
		}
	}
	for _, m := range p.places {
		assert.True(v.t, m.empty() && m.unsent == 0 && !m.draining)
	}
}
