package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// served reports whether who waits has what it waits for.
func served(turn Turn[string, *box]) bool { return turn.w.ready == nil || closed(turn.w.ready) }

// ahead queues for a lease that may be ahead, and expects it at once.
func ahead(t *testing.T, p *Pool[string, *box]) *Lease[string, *box] {
	t.Helper()
	turn := p.Queue("x", nil, true)
	require.True(t, served(turn), "there is no lease")
	l, err := turn.Wait(t.Context())
	require.NoError(t, err)
	return l
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 3}}).pool(1)
		a, b, c := lease(t, p, "x"), lease(t, p, "x"), lease(t, p, "x")
		assert.Same(t, a.box, b.box)
		assert.Same(t, a.box, c.box)
		turn := p.Queue("x", nil, true)
		assert.False(t, served(turn), "none ahead is allowed")
		assert.Equal(t, Stats{Busy: 1, Running: 3, Waiting: 1, Opened: 1, Leases: 3, Waits: 2}, p.Stats())
		b.release(true)
		assert.True(t, served(turn))
		a.release(false) // of no use: the others lose it too
		synctest.Wait()
		assert.Zero(t, p.Count())
		c.release(true)
		require.NoError(t, p.Close())
	})
}

func TestTheLeastBusyMemberIsLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2}}).pool(2)
		require.NoError(t, p.Prewarm(t.Context(), "x", 2))
		a, b := lease(t, p, "x"), lease(t, p, "x")
		assert.NotSame(t, a.box, b.box)
		lease(t, p, "x")
		lease(t, p, "x")
		assert.Equal(t, 4, p.Stats().Running)
		require.NoError(t, p.Close())
	})
}

func TestALeaseAheadRunsWhenTheOneBeforeIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 2}}).pool(1)
		a := lease(t, p, "x")
		assert.True(t, closed(a.lease.Running()))
		assert.Nil(t, a.lease.Moved())
		b := ahead(t, p)
		b.Sent(nil)
		c := ahead(t, p)
		c.Sent(nil)
		last := p.Queue("x", nil, true)
		assert.False(t, served(last), "two wait, no more")
		assert.False(t, closed(b.Running()))
		a.release(true)
		assert.True(t, closed(b.Running()))
		assert.False(t, closed(c.Running()))
		assert.True(t, served(last))
		assert.False(t, closed(b.Moved()))
		c.Release(true) // given up before it ran
		d, err := last.Wait(t.Context())
		require.NoError(t, err)
		b.Release(true)
		assert.True(t, closed(d.Running()))
		assert.Equal(t, 1, p.Stats().Running)
		d.Release(true)
		assert.Equal(t, 1, p.Stats().Idle)
		require.NoError(t, p.Close())
	})
}

func TestAnIdleMemberTakesALeaseOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 3}}).pool(2)
		require.NoError(t, p.Prewarm(t.Context(), "x", 2))
		a, b := lease(t, p, "x"), lease(t, p, "x")
		var waiting []*Lease[string, *box]
		recalled := 0
		answers := []bool{false, true} // the first has just begun
		for range 4 {
			l := ahead(t, p)
			waiting = append(waiting, l)
			l.Sent(func() bool {
				recalled++
				return answers[recalled-1]
			})
		}
		var mine []*Lease[string, *box] // ahead in a
		for _, l := range waiting {
			if l.Member() == a.box {
				mine = append(mine, l)
			}
		}
		require.Len(t, mine, 2, "they are spread")
		for _, l := range waiting { // nobody waits in b
			if l.Member() == b.box {
				l.Release(true)
			}
		}
		b.release(true)
		assert.Equal(t, 2, recalled)
		assert.False(t, closed(mine[0].Moved()))
		assert.True(t, closed(mine[1].Moved()))
		assert.True(t, closed(mine[1].Running()))
		assert.Same(t, b.box, mine[1].Member())
		assert.EqualValues(t, 1, p.Stats().TakenOver)
		assert.False(t, mine[1].Drop(a.box), "the lease is no longer of that member")
		assert.True(t, mine[1].Drop(b.box))
		synctest.Wait()
		assert.Equal(t, 1, p.Count())
		require.NoError(t, p.Close())
	})
}

func TestARecallThatIsSetLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 1}}).pool(2)
		require.NoError(t, p.Prewarm(t.Context(), "x", 2))
		a, b := lease(t, p, "x"), lease(t, p, "x")
		l := ahead(t, p)
		other := b
		if l.Member() == b.box {
			other = a
		}
		other.release(true)
		assert.False(t, closed(l.Moved()), "its holder is about to send the call")
		l.Sent(func() bool { return true })
		assert.True(t, closed(l.Moved()))
		require.NoError(t, p.Close())
	})
}

// A member does things in the order in which it gets them, and must not get the second before the first.
func TestNoLeaseAheadOfOneThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 4}}).pool(1)
		first, err := p.Queue("x", nil, true).Wait(t.Context())
		require.NoError(t, err)
		second, third := p.Queue("x", nil, true), p.Queue("x", nil, true)
		assert.False(t, served(second))
		first.Sent(nil)
		assert.True(t, served(second))
		assert.False(t, served(third))
		l, err := second.Wait(t.Context())
		require.NoError(t, err)
		l.Release(true) // its holder gave up instead
		assert.True(t, served(third))
		require.NoError(t, p.Close())
	})
}

// Leases that overlap must not keep a member from ever being free for another class.
func TestAnotherClassIsServedAlthoughLeasesOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Concurrency: 2, Ahead: 2}}).pool(1)
		a, b := lease(t, p, "x"), lease(t, p, "x")
		other := p.Queue("y", nil, true)
		a.release(true)
		late := p.Queue("x", nil, true)
		assert.False(t, served(late), "it came later")
		b.release(true)
		l, err := other.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "y", l.Member().class)

		second := p.Queue("y", nil, true)
		assert.False(t, served(second), "the one of class x is first")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = late.Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		assert.True(t, served(second), "who waited for the place has left")
		require.NoError(t, p.Close())
	})
}

func TestAnAgeThatIsShorterThanAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second, limits: Limits{Age: 1, Idle: 1}}
		p := y.pool(1)
		for range 3 {
			l := lease(t, p, "x")
			time.Sleep(time.Second)
			l.release(true)
		}
		assert.Equal(t, 3, y.made, "each serves once")
		synctest.Wait()
		require.NoError(t, p.Prewarm(t.Context(), "x", 1))
		require.NoError(t, p.Close())
	})
}

func TestALeaseAheadKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 4}}).pool(1)
		a := lease(t, p, "x")
		b := ahead(t, p)
		b.Sent(nil)
		other := p.Queue("y", nil, true)
		late := p.Queue("x", nil, true)
		assert.False(t, served(late), "the member is wanted by who came before")
		a.release(true)
		b.Release(true)
		synctest.Wait()
		l, err := other.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "y", l.Member().class)
		l.Release(true)
		l, err = late.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "x", l.Member().class)
		require.NoError(t, p.Close())
	})
}

// One member is busy for long, and those who came later keep the other one busy.
func TestALeaseAheadIsNotPassedForEver(t *testing.T) {
	for _, test := range []struct {
		others string
		begun  bool
	}{{others: "x"}, {others: "y"}, {others: "x", begun: true}} {
		synctest.Test(t, func(t *testing.T) {
			p := (&yard{limits: Limits{Ahead: 1}}).pool(2)
			long, busy := lease(t, p, "x"), lease(t, p, test.others)
			turn := p.Queue("x", nil, true)
			l, err := turn.Wait(t.Context())
			require.NoError(t, err)
			require.Same(t, long.box, l.Member())
			l.Sent(func() bool { return !test.begun })
			next := p.Queue(test.others, nil, false)
			for range 10 {
				time.Sleep(patience / 8)
				require.False(t, closed(l.Moved()) && time.Since(l.since) < patience, "too early")
				passing := next
				next = p.Queue(test.others, nil, false)
				busy.release(true)
				lease, err := passing.Wait(t.Context())
				require.NoError(t, err)
				lease.Sent(nil)
				busy = held{lease.Member(), lease}
			}
			require.Equal(t, !test.begun, closed(l.Moved()))
			require.Equal(t, !test.begun, l.SentBack())
			if !test.begun {
				l.Release(false)
				assert.EqualValues(t, 1, p.Stats().TakenOver)
				assert.False(t, closed(long.done), "who has no lease any more harms no member")
				turn = turn.Again()
				busy.release(true)
				_, err := turn.Wait(t.Context())
				require.NoError(t, err)
				assert.False(t, served(next), "it came later")
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				_, err = next.Wait(gone)
				require.ErrorIs(t, err, context.Canceled)
				last := p.Queue("x", nil, true)
				assert.False(t, served(last), "none waits behind the long one any more")
				long.release(true)
				assert.True(t, served(last))
			}
			require.NoError(t, p.Close())
		})
	}
}

func TestWhoLostItsLeaseIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{limits: Limits{Ahead: 4}}).pool(1)
		a, b, later := p.Queue("x", nil, false), p.Queue("x", nil, false), p.Queue("x", nil, false)
		l, err := a.Wait(t.Context())
		require.NoError(t, err)
		l.Sent(nil)
		second := b.Again()
		assert.False(t, served(second), "not ahead")
		first := a.Again()
		l.Release(true)
		l, err = first.Wait(t.Context())
		require.NoError(t, err)
		assert.False(t, served(second), "who came first is first, whoever lost it first")
		l.Release(true)
		l, err = b.Wait(t.Context())
		require.NoError(t, err)
		l.Release(true)
		assert.True(t, served(second))
		assert.False(t, served(later))
		require.NoError(t, p.Close())
		_, err = later.Wait(t.Context())
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Uses: 2, Ahead: 5}}
		p := y.pool(1)
		a := lease(t, p, "x")
		b := ahead(t, p)
		b.Sent(nil)
		third := p.Queue("x", nil, true)
		assert.False(t, served(third), "the second is its last")
		a.release(true)
		b.Release(true)
		l, err := third.Wait(t.Context())
		require.NoError(t, err)
		assert.NotSame(t, a.box, l.Member())
		assert.EqualValues(t, 1, p.Stats().UsedUp)
		require.NoError(t, p.Close())
	})
}

func TestIdleTimeAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Idle: time.Minute, Age: 3 * time.Minute}}
		p := y.pool(2)
		a := lease(t, p, "x")
		time.Sleep(2 * time.Minute)
		a.release(true)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, p.Count())
		b := lease(t, p, "x")
		assert.Same(t, a.box, b.box, "a lease ends the idle time")
		time.Sleep(time.Minute)
		assert.Equal(t, 1, p.Count(), "a lease is not cut short")
		b.release(true)
		synctest.Wait()
		assert.Zero(t, p.Count())
		assert.EqualValues(t, 1, p.Stats().TooOld)

		lease(t, p, "x").release(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Zero(t, p.Count())
		assert.EqualValues(t, 1, p.Stats().IdleTooLong)
		require.NoError(t, p.Close())
	})
}

func TestAMemberThatWasIdleIsCheckedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(1)
		a := lease(t, p, "x")
		a.release(true)
		b := lease(t, p, "x")
		assert.Zero(t, y.checked, "it was used just now")
		b.release(true)
		time.Sleep(checkAfter)
		c := lease(t, p, "x")
		assert.Same(t, a.box, c.box)
		assert.Equal(t, 1, y.checked)
		c.release(true)
		time.Sleep(time.Hour)
		y.checkErr = errors.New("no answer")
		d := lease(t, p, "x")
		assert.NotSame(t, a.box, d.box, "one that does not answer is replaced")
		assert.EqualValues(t, 1, p.Stats().Lost)
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

// A member that is its user's own is not given up on suspicion: of silence, or of timeouts.
func TestAnOwnMemberIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Concurrency: 1, Own: true}, checkErr: errors.New("no answer")}
		p := y.pool(1)
		a := lease(t, p, "x")
		for range 2 * maxSuspect {
			time.Sleep(time.Hour)
			a.lease.ReleaseSuspect()
			b := lease(t, p, "x")
			assert.Same(t, a.box, b.box)
			a = b
		}
		assert.Zero(t, y.checked)
		a.release(true)
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

// Members that end before the last one is there are not made again and again.
func TestPrewarmOfMembersThatEndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second}
		p := New(4, Backend[string, *box]{
			Open: y.open, Stop: func(b *box) error { return y.stop(b) }, StartsAtOnce: 1, Limits: func(string) Limits { return Limits{Concurrency: 1, Idle: time.Second / 2} },
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		require.NoError(t, p.Prewarm(ctx, "x", 4))
		assert.Equal(t, 4*time.Second, time.Since(begin))
		assert.Equal(t, 4, y.made)

		time.AfterFunc(1500*time.Millisecond, func() { p.SetMaximum(1) })
		require.ErrorContains(t, p.Prewarm(ctx, "x", 4), "room for 1 of 4")
		require.NoError(t, p.Close())
	})
}

func TestPrewarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second}
		p := y.pool(3)
		begin := time.Now()
		require.NoError(t, p.Prewarm(t.Context(), "x", 2))
		assert.Equal(t, time.Second, time.Since(begin))
		assert.Equal(t, 2, p.Stats().Idle)
		require.NoError(t, p.Prewarm(t.Context(), "x", 2), "they are there")
		assert.Equal(t, 2, y.made)
		require.ErrorContains(t, p.Prewarm(t.Context(), "y", 2), "room for 1 of 2")
		assert.Equal(t, 3, p.Count())

		y.openErr = errors.New("no disk")
		lease(t, p, "y").release(false)
		time.Sleep(time.Second)
		require.ErrorIs(t, p.Prewarm(t.Context(), "x", 3), y.openErr)
		y.openErr = nil
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, p.Prewarm(ctx, "x", 3), context.DeadlineExceeded)
		time.Sleep(time.Second)
		assert.Equal(t, 3, p.Stats().Idle, "what was begun goes on")
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.Prewarm(t.Context(), "x", 1), ErrClosed)
		assert.Zero(t, y.alive)
	})
}

// TestNothingIsLostAmongLeases lets many holders do everything at random, and counts.
func TestNothingIsLostAmongLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Millisecond, stopTime: time.Millisecond, limits: Limits{Concurrency: 2, Ahead: 3, Uses: 20, Age: 50 * time.Millisecond, Idle: 5 * time.Millisecond}}
		p := y.pool(4)
		running := map[*box]int{}
		var mu sync.Mutex
		var ran atomic.Int32
		var holders sync.WaitGroup
		for range 500 {
			holders.Go(func() {
				time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
				class := []string{"x", "y"}[rand.IntN(2)]
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(400))*time.Millisecond)
				defer cancel()
				l, err := p.Queue(class, nil, rand.IntN(4) > 0).Wait(ctx)
				if err != nil {
					return
				}
				var sent atomic.Bool // what a ledger would know
				l.Sent(func() bool { return !sent.Swap(true) })
				select {
				case <-l.Running():
				case <-l.Member().Done():
					l.Release(false)
					return
				case <-ctx.Done():
					l.Release(true)
					return
				}
				m := l.Member()
				mu.Lock()
				running[m]++
				assert.LessOrEqual(t, running[m], 2)
				mu.Unlock()
				assert.Equal(t, class, m.class)
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
				mu.Lock()
				running[m]--
				mu.Unlock()
				ran.Add(1)
				l.Release(rand.IntN(20) > 0)
			})
		}
		holders.Wait()
		time.Sleep(time.Second)
		s := p.Stats()
		assert.Zero(t, s.Running+s.Ahead+s.Waiting+s.Busy+s.Idle+s.Stopping+s.Opening, "%+v", s)
		assert.Greater(t, ran.Load(), int32(200))
		require.NoError(t, p.Close())
		assert.LessOrEqual(t, y.most, 4)
		assert.Zero(t, y.alive)
	})
}

// A lease ahead may be given back before the one that ran first; it was used all the same.
func TestUsesCountWhateverTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{limits: Limits{Uses: 2, Ahead: 5}}
		p := y.pool(1)
		a := lease(t, p, "x")
		b := ahead(t, p)
		b.Sent(func() bool { return false })
		b.Release(true)
		third := p.Queue("x", nil, true)
		assert.False(t, served(third))
		a.release(true)
		l, err := third.Wait(t.Context())
		require.NoError(t, err)
		assert.NotSame(t, a.box, l.Member())
		require.NoError(t, p.Close())
	})
}

func TestAMemberThatDoesNotStopKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(2)
		a, b := lease(t, p, "x"), lease(t, p, "x")
		b.release(true)
		y.stopErr = errors.New("stuck")
		a.release(false)
		synctest.Wait()
		y.mu.Lock()
		y.stopErr = nil // for the idle one, which makes room
		y.mu.Unlock()
		l, err := p.Queue("y", nil, false).Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "y", l.Member().class)
		require.NoError(t, p.Close())
	})
}

func TestMembersThatDoNotStopFailWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(1)
		a := lease(t, p, "x")
		turn := p.Queue("x", nil, false)
		stuck, began := errors.New("stuck"), time.Now()
		y.stopErr = stuck
		a.release(false)
		_, err := turn.Wait(t.Context())
		require.ErrorIs(t, err, stuck)
		assert.Equal(t, stuckAfter, time.Since(began))
		_, err = p.Queue("y", nil, true).Wait(t.Context())
		require.ErrorIs(t, err, stuck, "at once")
		y.mu.Lock()
		y.stopErr = nil
		y.mu.Unlock()
		time.Sleep(2 * stopAgain)
		lease(t, p, "y").release(true)
		require.NoError(t, p.Close())
	})
}

func TestPrewarmWaitsForWhatIsStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopTime: time.Second}
		p := y.pool(1)
		lease(t, p, "x").release(false)
		require.NoError(t, p.Prewarm(t.Context(), "x", 1))
		assert.Equal(t, 1, p.Stats().Idle)
		require.NoError(t, p.Close())
	})
}

func TestPrewarmThatCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openHook: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		p := y.pool(1)
		done := make(chan error, 1)
		go func() { done <- p.Prewarm(t.Context(), "x", 1) }()
		synctest.Wait()
		require.NoError(t, p.Close())
		require.ErrorIs(t, <-done, ErrClosed)
	})
}

func TestAStartThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openHook: func(context.Context) error { runtime.Goexit(); return nil }}
		p := y.pool(1)
		_, err := p.Queue("x", nil, false).Wait(t.Context())
		require.ErrorIs(t, err, errGoexit)
		assert.Zero(t, p.Count())
		require.NoError(t, p.Close())
	})
}

func TestAMemberThatEndedMakesRoomEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopTime: time.Second, limits: Limits{Concurrency: 2}}
		p := y.pool(2)
		dead, other := lease(t, p, "x"), lease(t, p, "y")
		other.release(true)
		dead.end() // it is leased, so that nobody has discarded it yet
		synctest.Wait()
		lease(t, p, "x")
		assert.Zero(t, p.Stats().MadeRoom, "its place is about to be free")
		assert.Same(t, other.box, lease(t, p, "y").box)
		require.NoError(t, p.Close())
	})
}

func TestAClassThatCantStartKeepsNoOtherWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(4)
		a := lease(t, p, "x")
		y.openErr = errors.New("no descriptors")
		turn := p.Queue("x", nil, false)
		synctest.Wait()
		y.mu.Lock()
		y.openErr = nil
		y.mu.Unlock()
		begin := time.Now()
		lease(t, p, "y")
		assert.Zero(t, time.Since(begin), "there is room")
		a.release(true)
		_, err := turn.Wait(t.Context())
		require.NoError(t, err)
		require.NoError(t, p.Close())
	})
}
