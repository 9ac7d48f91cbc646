package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// work runs n leases of class that last for each, with no more than window at a time and waiting, and counts how many are done.
func work(t *testing.T, p *Pool[string, *box], class string, n, window int, each time.Duration, done *atomic.Int32) {
	var holders sync.WaitGroup
	var next atomic.Int32
	for range window {
		holders.Go(func() {
			for int(next.Add(1)) <= n {
				l, err := running(t.Context(), p.Queue(class, class, true))
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, class, l.Member().class)
				time.Sleep(each)
				done.Add(1)
				l.Release(true)
			}
		})
	}
	holders.Wait()
}

func TestFlowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 8}}).pool(1)
		const each = time.Millisecond
		var wide, narrow sync.WaitGroup
		queue := func(flow string, n int, group *sync.WaitGroup) {
			for range n {
				turn := p.Queue("x", flow, true)
				group.Go(func() {
					l, err := running(t.Context(), turn)
					if !assert.NoError(t, err) {
						return
					}
					time.Sleep(each)
					l.Release(true)
				})
			}
		}
		queue("wide", 10_000, &wide)
		time.Sleep(time.Second)
		began := time.Now()
		queue("narrow", 10, &narrow)
		narrow.Wait()
		// Its fair time is that of twenty leases, ten of either flow.
		assert.LessOrEqual(t, time.Since(began), 2*20*each)
		wide.Wait()
		require.NoError(t, p.Close())
	})
}

func TestAFlowIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{}).pool(1)
		first := lease(t, p, "x")
		var served []string
		var all sync.WaitGroup
		for i := range 6 {
			flow := []string{"a", "a", "a", "a", "b", "c"}[i]
			turn := p.Queue("x", flow, false)
			all.Go(func() {
				l, err := turn.Wait(t.Context())
				if assert.NoError(t, err) {
					served = append(served, fmt.Sprint(flow, i))
					l.Release(true)
				}
			})
			synctest.Wait()
		}
		first.release(true)
		all.Wait()
		assert.Equal(t, []string{"a0", "b4", "c5", "a1", "a2", "a3"}, served)
		require.NoError(t, p.Close())
	})
}

// Flows and their turns come and go at random, and what the pool knows of them is right.
func TestFlowsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 2}}).pool(2)
		var all sync.WaitGroup
		for i := range 2000 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(300))*time.Millisecond)
				defer cancel()
				l, err := p.Queue("x", i%7, true).Wait(ctx)
				if err != nil {
					return
				}
				l.Sent(nil)
				select {
				case <-l.Running():
					time.Sleep(time.Millisecond)
				case <-ctx.Done():
				}
				l.Release(true)
			})
		}
		all.Wait()
		g := p.groups["x"]
		assert.Empty(t, g.flows)
		assert.Zero(t, g.waiting.len()+g.ahead+g.movable+g.running+g.loaded.len())
		require.NoError(t, p.Close())
	})
}

// Two kinds that both have more to do than there are members for share them, and restart them rarely.
func TestClassesShare(t *testing.T) {
	for maximum := 1; maximum <= 3; maximum++ {
		t.Run(fmt.Sprint(maximum), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y := &yard{openTime: 5 * time.Millisecond, stopTime: time.Millisecond, limits: Limits{Ahead: 8}}
				p := y.pool(maximum)
				const calls, each = 20_000, 100 * time.Microsecond
				var done [2]atomic.Int32
				began := time.Now()
				var both sync.WaitGroup
				for i, class := range []string{"x", "y"} {
					both.Go(func() { work(t, p, class, calls, 9*maximum, each, &done[i]) })
				}
				time.Sleep(calls * each / 2 / time.Duration(maximum))
				for i := range done {
					assert.Greater(t, done[i].Load(), int32(calls/10), "both make progress")
				}
				both.Wait()
				took := time.Since(began)
				assert.Less(t, took, 2*calls*each*13/10/time.Duration(maximum), "most of the time something runs")
				slices := int(took / (worthStarts * y.openTime))
				if maximum > 1 {
					slices = 4 // there is a member for each
				}
				assert.LessOrEqual(t, int(p.Stats().MadeRoom), slices)
				require.NoError(t, p.Close())
			})
		})
	}
}

// Callers who wait for each result before they call again share a member, too, without a restart for each call.
func TestLoneCallersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: 5 * time.Millisecond, limits: Limits{Ahead: 8}}
		p := y.pool(1)
		var done [2]atomic.Int32
		began := time.Now()
		var both sync.WaitGroup
		for i, class := range []string{"x", "y"} {
			both.Go(func() {
				for range 5000 {
					work(t, p, class, 1, 1, 100*time.Microsecond, &done[i])
					time.Sleep(100 * time.Microsecond)
				}
			})
		}
		both.Wait()
		assert.LessOrEqual(t, int(p.Stats().MadeRoom), int(time.Since(began)/(worthStarts*y.openTime)))
		// When one comes after the other, it waits for no more than twice its start.
		time.Sleep(y.openTime)
		class := p.places[0].group.class
		began = time.Now()
		lease(t, p, map[string]string{"x": "y", "y": "x"}[class])
		assert.Equal(t, y.openTime, time.Since(began))
		require.NoError(t, p.Close())
	})
}

// Three classes on two members: each gets its turn, although all of them always have something to do.
func TestEveryClassHasItsTurn(t *testing.T) {
	for _, concurrency := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			p := (&yard{openTime: 5 * time.Millisecond, limits: Limits{Concurrency: concurrency, Ahead: 8}}).pool(2)
			var done [3]atomic.Int32
			var all sync.WaitGroup
			for i, class := range []string{"x", "y", "z"} {
				all.Go(func() { work(t, p, class, 3000, 20, time.Millisecond, &done[i]) })
			}
			time.Sleep(time.Second)
			for i := range done {
				assert.Greater(t, done[i].Load(), int32(100))
			}
			all.Wait()
			require.NoError(t, p.Close())
		})
	}
}

// Nobody is left waiting when classes come and go at random.
func TestClassesAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: 3 * time.Millisecond, stopTime: time.Millisecond, limits: Limits{Ahead: 2}}
		y.openHook = func(context.Context) error {
			if rand.IntN(10) == 0 {
				return errors.New("bad luck")
			}
			return nil
		}
		p := New(4, Backend[string, *box]{
			Open: y.open, Stop: func(b *box) error { return y.stop(b) }, StartsAtOnce: 2,
			Limits: func(class string) Limits { return Limits{Concurrency: 1 + int(class[0]-'a')%3, Ahead: 2} },
		})
		p.Keep("a", 1)
		var all sync.WaitGroup
		var served atomic.Int32
		for range 2000 {
			all.Go(func() {
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
				class := string(rune('a' + rand.IntN(6)))
				for {
					l, err := running(t.Context(), p.Queue(class, rand.IntN(3), rand.IntN(2) == 0))
					if err != nil {
						continue
					}
					time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
					served.Add(1)
					l.Release(rand.IntN(30) > 0)
					if rand.IntN(50) == 0 {
						p.SetMaximum(1 + rand.IntN(6))
					}
					return
				}
			})
		}
		all.Wait()
		assert.EqualValues(t, 2000, served.Load())
		p.SetMaximum(4)
		time.Sleep(time.Hour)
		s := p.Stats()
		assert.LessOrEqual(t, p.Count(), 4)
		assert.Zero(t, s.Running+s.Ahead+s.Waiting+s.Busy+s.Opening+s.Stopping)
		assert.Zero(t, p.need+p.freeing+len(p.shrinks), "what is expected")
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second, limits: Limits{Idle: time.Minute, Uses: 2}}
		p := y.pool(3)
		p.Keep("x", 2)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 2, p.Stats().Idle)
		time.Sleep(time.Hour)
		assert.Equal(t, 2, y.opened(), "they are not stopped for being idle")

		a, b, c := lease(t, p, "x"), lease(t, p, "x"), lease(t, p, "x")
		a.end()
		a.release(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 3, y.opened(), "two are there")
		b.end()
		b.release(true)
		time.Sleep(2 * time.Second)
		assert.Equal(t, 4, y.opened(), "a lost one is replaced")
		c.release(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 2, p.Count(), "what is above the minimum is stopped")
		for range 2 {
			lease(t, p, "x").release(true)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, p.Count(), "what is used up is replaced")

		// Another class takes what is free first, and of what is kept only one.
		y1, made := lease(t, p, "y"), p.Stats().MadeRoom
		assert.Zero(t, made)
		turn := p.Queue("y", nil, false)
		time.Sleep(time.Hour)
		assert.False(t, served(turn), "it has one")
		y1.release(true)
		l, err := turn.Wait(t.Context())
		require.NoError(t, err)
		l.Release(false)
		p.SetMaximum(2)
		time.Sleep(time.Hour)
		lease(t, p, "y").release(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.EqualValues(t, 1, p.Stats().MadeRoom)
		assert.Equal(t, 2, p.Stats().Idle, "there is room again")
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestWhatIsKeptGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Idle: time.Second, Age: time.Minute}}
		p := y.pool(2)
		p.Keep("x", 1)
		time.Sleep(10*time.Minute + time.Second)
		assert.Equal(t, 11, y.opened())
		assert.EqualValues(t, 10, p.Stats().TooOld)
		require.NoError(t, p.Close())
	})
}

func TestWhatIsKeptFailsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openErr: errors.New("no disk"), openTime: time.Millisecond}
		var told []error
		p := New(2, Backend[string, *box]{
			Open: y.open, Stop: func(b *box) error { return y.stop(b) }, Limits: func(string) Limits { return Limits{Concurrency: 1} },
			Failed: func(_ string, err error) { told = append(told, err) },
		})
		p.Keep("x", 1)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, []error{y.openErr}, told, "once")
		assert.InDelta(t, 3600/22, y.opened(), 50)
		_, err := p.Queue("x", nil, false).Wait(t.Context())
		require.ErrorIs(t, err, y.openErr, "its own start failed")
		time.Sleep(time.Hour)
		// A start in the background that fails is not the waiter's.
		fails := make(chan struct{})
		first := true
		y.mu.Lock()
		y.openErr = nil
		y.openHook = func(context.Context) error {
			y.mu.Lock()
			background := first
			first = false
			y.mu.Unlock()
			if background {
				<-fails
				return errors.New("no disk")
			}
			return nil
		}
		y.mu.Unlock()
		time.Sleep(maxHold)
		turn := p.Queue("x", nil, false)
		close(fails)
		l, err := turn.Wait(t.Context())
		require.NoError(t, err)
		l.Release(true)
		synctest.Wait()
		assert.Len(t, told, 1, "it has not been well in between")
		require.NoError(t, p.Close())
	})
}

func TestSetMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Ahead: 8}}
		p := y.pool(1)
		var done atomic.Int32
		var all sync.WaitGroup
		all.Go(func() { work(t, p, "x", 600, 9, time.Second, &done) })
		time.Sleep(100*time.Second + time.Millisecond)
		assert.Equal(t, 1, p.Count())
		p.SetMaximum(5)
		time.Sleep(time.Second)
		assert.Equal(t, 5, p.Count(), "what waits in a busy member goes to the new ones")
		at := done.Load()
		time.Sleep(10 * time.Second)
		assert.InDelta(t, at+50, done.Load(), 5)
		p.SetMaximum(2)
		assert.Equal(t, 5, p.Stats().Running, "nothing is cut short")
		time.Sleep(3 * time.Second)
		assert.Equal(t, 2, p.Count())
		all.Wait()
		p.SetMaximum(1)
		synctest.Wait()
		assert.Equal(t, 1, p.Count(), "an idle one is stopped at once")
		assert.EqualValues(t, 4, p.Stats().Surplus)
		assert.EqualValues(t, 600, done.Load())
		require.NoError(t, p.Close())
	})
}

func TestSetMaximumWhereLeasesOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2}}).pool(2)
		require.NoError(t, p.Prewarm(t.Context(), "x", 2))
		a, b, c := lease(t, p, "x"), lease(t, p, "x"), lease(t, p, "x")
		p.SetMaximum(1)
		a.release(true)
		b.release(true)
		c.release(true)
		synctest.Wait()
		assert.Equal(t, 1, p.Count())
		d, e := lease(t, p, "x"), lease(t, p, "x")
		p.SetMaximum(2)
		f := lease(t, p, "x")
		p.SetMaximum(1)
		p.SetMaximum(2)
		g := lease(t, p, "x")
		assert.Equal(t, 2, p.Count(), "they are wanted again")
		for _, h := range []held{d, e, f, g} {
			h.release(true)
		}
		require.NoError(t, p.Close())
	})
}

// overlapping are leases of two members: one of a member whose leases are waited for where its place is wanted, and two of the other one.
func overlapping(t *testing.T, p *Pool[string, *box]) (lasting held, others [2]held) {
	t.Helper()
	require.NoError(t, p.Prewarm(t.Context(), "x", 2))
	a, b, c := lease(t, p, "x"), lease(t, p, "x"), lease(t, p, "x")
	if a.box == c.box {
		a, b = b, a
	}
	require.NotSame(t, a.box, b.box)
	require.Same(t, b.box, c.box)
	return a, [2]held{b, c}
}

// Who waits for leases that may last takes what is free earlier.
func TestNobodyWaitsForALeaseThatLasts(t *testing.T) {
	for name, free := range map[string]func(p *Pool[string, *box], others [2]held){
		"there may be more": func(p *Pool[string, *box], _ [2]held) { p.SetMaximum(3) },
		"another has ended": func(_ *Pool[string, *box], others [2]held) { others[0].release(false) },
		"another has nothing to do": func(_ *Pool[string, *box], others [2]held) {
			others[0].release(true)
			others[1].release(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := (&yard{limits: Limits{Concurrency: 2}}).pool(2)
				lasting, others := overlapping(t, p)
				other := p.Queue("y", nil, true)
				synctest.Wait()
				assert.False(t, served(other))
				free(p, others)
				synctest.Wait()
				require.True(t, served(other))
				l, err := other.Wait(t.Context())
				require.NoError(t, err)
				assert.NotSame(t, lasting.box, l.Member())
				// The other member is the others' again.
				lease(t, p, "x")
				l.Release(true)
				require.NoError(t, p.Close())
			})
		})
	}
}

// Nobody knows which leases last: who has waited for those of one member for long waits for another one's.
func TestNobodyWaitsForALeaseThatLastsAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2}}).pool(2)
		lasting, others := overlapping(t, p)
		began := time.Now()
		other := p.Queue("y", nil, true)
		ctx, stop := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		for range 3 {
			crowd.Go(func() { // so that the other member always has something to do
				for {
					l, err := p.Queue("x", nil, false).Wait(ctx)
					if err != nil {
						return
					}
					l.Sent(nil)
					time.Sleep(300 * time.Millisecond)
					l.Release(true)
				}
			})
		}
		synctest.Wait()
		others[0].release(true)
		time.Sleep(150 * time.Millisecond)
		others[1].release(true)
		l, err := other.Wait(t.Context())
		require.NoError(t, err)
		assert.NotSame(t, lasting.box, l.Member())
		assert.Less(t, time.Since(began), 3*patience)
		stop()
		crowd.Wait()
		require.NoError(t, p.Close())
	})
}

// A member that runs one lease at a time, and always has one, makes room for who waits for leases that last.
func TestNobodyWaitsForALeaseThatLastsBesideShortOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := New(2, Backend[string, *box]{Open: y.open, Stop: func(b *box) error { return y.stop(b) }, Limits: func(class string) Limits {
			if class == "lasting" {
				return Limits{Concurrency: 2}
			}
			return Limits{Concurrency: 1, Ahead: 8}
		}})
		lasting := lease(t, p, "lasting")
		ctx, stop := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		for range 4 {
			crowd.Go(func() {
				for {
					l, err := running(ctx, p.Queue("short", nil, true))
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
					l.Release(true)
				}
			})
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		l, err := running(ctx, p.Queue("other", nil, true))
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 3*patience)
		assert.NotSame(t, lasting.box, l.Member())
		l.Release(true)
		stop()
		crowd.Wait()
		require.NoError(t, p.Close())
	})
}

// Where a busy member was to end because there were too many, it serves on if another one ends first.
func TestAnotherEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2}}).pool(2)
		lasting, others := overlapping(t, p)
		p.SetMaximum(1)
		others[0].release(false)
		synctest.Wait()
		assert.Equal(t, 1, p.Count())
		next := p.Queue("x", nil, false)
		require.True(t, served(next))
		l, err := next.Wait(t.Context())
		require.NoError(t, err)
		assert.Same(t, lasting.box, l.Member())
		require.NoError(t, p.Close())
	})
}

func TestStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second}
		most, opening := 0, 0
		y.openHook = func(context.Context) error {
			y.mu.Lock()
			opening++
			most = max(most, opening)
			y.mu.Unlock()
			time.Sleep(time.Second)
			y.mu.Lock()
			opening--
			y.mu.Unlock()
			return nil
		}
		p := New(20, Backend[string, *box]{
			Open: y.open, Stop: func(b *box) error { return y.stop(b) }, StartsAtOnce: 4, Limits: func(string) Limits { return Limits{Concurrency: 1, Ahead: 8} },
		})
		var turns []Turn[string, *box]
		for range 10 {
			turns = append(turns, p.Queue("x", nil, true))
		}
		require.NoError(t, p.Prewarm(t.Context(), "y", 10))
		for _, turn := range turns {
			l, err := turn.Wait(t.Context())
			require.NoError(t, err)
			<-l.Running()
		}
		assert.LessOrEqual(t, most, 4)
		assert.Equal(t, 20, p.Count())
		require.NoError(t, p.Close())
	})
}

func TestSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{}).pool(1)
		use := func(suspect bool) *box {
			l := lease(t, p, "x")
			if suspect {
				l.lease.ReleaseSuspect()
			}
			l.release(true)
			return l.box
		}
		a := use(true)
		use(true)
		use(false)
		use(true)
		use(true)
		assert.Same(t, a, use(false), "never three in a row")
		use(true)
		use(true)
		assert.Same(t, a, use(true))
		b := lease(t, p, "x")
		assert.NotSame(t, a, b.box)
		assert.EqualValues(t, 1, p.Stats().Quarantined)
		b.release(true)
		require.NoError(t, p.Close())
	})
}

// Who waits when a member turns out to be suspicious gets another one.
func TestWhoWaitsGetsNoSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{}).pool(1)
		var a *box
		for range maxSuspect {
			l := lease(t, p, "x")
			a = l.box
			turn := p.Queue("x", nil, false)
			l.lease.ReleaseSuspect()
			l.release(true)
			next, err := turn.Wait(t.Context())
			require.NoError(t, err)
			next.ReleaseSuspect()
			if p.Stats().Quarantined > 0 {
				break
			}
		}
		l := lease(t, p, "x")
		assert.NotSame(t, a, l.box)
		assert.EqualValues(t, 1, p.Stats().Quarantined)
		assert.EqualValues(t, maxSuspect+2, p.Stats().Leases, "the fourth was another member's")
		l.release(true)
		require.NoError(t, p.Close())
	})
}

// A member that runs other leases is not stopped before they are given back.
func TestASuspectFinishesWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2}}).pool(1)
		long := lease(t, p, "x")
		for range maxSuspect {
			l := lease(t, p, "x")
			l.lease.ReleaseSuspect()
			l.release(true)
		}
		turn := p.Queue("x", nil, true)
		time.Sleep(time.Hour)
		assert.False(t, served(turn), "it gets no further one")
		assert.False(t, isDone(long.box))
		long.release(true)
		l, err := turn.Wait(t.Context())
		require.NoError(t, err)
		assert.NotSame(t, long.box, l.Member())
		require.NoError(t, p.Close())
	})
}

func TestSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second, stopTime: time.Second, limits: Limits{Uses: 1, Spare: true}}
		p := y.pool(4)
		var used []*box
		for i := range 5 {
			began := time.Now()
			l := lease(t, p, "x")
			if i > 0 {
				assert.Zero(t, time.Since(began), "it is there")
			}
			assert.False(t, slices.Contains(used, l.box))
			used = append(used, l.box)
			time.Sleep(2 * time.Second)
			l.release(true)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, 1, p.Stats().Idle, "the last one was not used")
		assert.Equal(t, 6, y.opened())

		// Several at a time have as many spares as there is room for.
		a, b, c := lease(t, p, "x"), lease(t, p, "x"), lease(t, p, "x")
		time.Sleep(time.Minute)
		assert.Equal(t, 4, p.Count())
		for _, l := range []held{a, b, c} {
			l.release(true)
		}
		// Another class has its place at once.
		lease(t, p, "y")
		require.NoError(t, p.Close())
		assert.LessOrEqual(t, y.most, 4)
	})
}

// Members whose leases overlap are never without any, unless they get no more of them.
func TestSetMaximumUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2, Ahead: 2}}).pool(3)
		ctx, cancel := context.WithCancel(t.Context())
		var holders sync.WaitGroup
		for range 12 {
			holders.Go(func() {
				for {
					l, err := p.Queue("x", nil, false).Wait(ctx)
					if err != nil {
						return
					}
					l.Sent(nil)
					time.Sleep(time.Duration(1+rand.IntN(10)) * time.Millisecond)
					l.Release(true)
				}
			})
		}
		time.Sleep(time.Second)
		assert.Equal(t, 3, p.Count())
		p.SetMaximum(1)
		time.Sleep(time.Second)
		assert.Equal(t, 1, p.Count())
		assert.Equal(t, 2, p.Stats().Running)
		cancel()
		holders.Wait()
		require.NoError(t, p.Close())
	})
}

// An idle member makes room for a class that has some members when it has served for long enough, although nothing else happens then.
func TestAnIdleMemberMakesRoomInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{openTime: time.Second}).pool(2)
		require.NoError(t, p.Prewarm(t.Context(), "x", 1))
		began := time.Now()
		lease(t, p, "y")
		lease(t, p, "y")
		assert.Equal(t, worthStarts*time.Second+time.Second, time.Since(began))
		assert.EqualValues(t, 1, p.Stats().MadeRoom)
		require.NoError(t, p.Close())
	})
}
