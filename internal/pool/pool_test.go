package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is a member that records its life.
type box struct {
	class  string
	serial int
	yard   *yard
	done   chan struct{}
	end    func()
}

func (b *box) Done() <-chan struct{}       { return b.done }
func (b *box) Stop(context.Context) error  { return b.yard.stop(b) }
func (b *box) Check(context.Context) error { return b.yard.check(b) }
func (b *box) Queues() bool                { return true }
func (b *box) String() string              { return fmt.Sprintf("%s-%d", b.class, b.serial) }

// yard makes boxes, and knows how many there are.
type yard struct {
	mu                 sync.Mutex
	alive, most, made  int
	openTime, stopTime time.Duration
	openErr, stopErr   error
	openHook           func(ctx context.Context) error
	checked            int
	checkErr           error
	leaves             bool // what could not be opened is to be stopped
	limits             Limits
}

func (y *yard) check(*box) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.checked++
	return y.checkErr
}

func (y *yard) open(ctx context.Context, class string) (*box, error) {
	y.mu.Lock()
	y.alive++
	y.made++
	y.most = max(y.most, y.alive)
	serial, err, hook := y.made, y.openErr, y.openHook
	y.mu.Unlock()
	if hook != nil {
		err = hook(ctx)
	}
	time.Sleep(y.openTime)
	b := &box{class: class, serial: serial, yard: y, done: make(chan struct{})}
	b.end = sync.OnceFunc(func() { close(b.done) })
	if err != nil && !y.leaves {
		y.mu.Lock()
		y.alive--
		y.mu.Unlock()
		return nil, err
	}
	return b, err
}

// opened is how often somebody tried to open a box.
func (y *yard) opened() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.made
}

func (y *yard) stop(b *box) error {
	time.Sleep(y.stopTime)
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.stopErr != nil {
		return y.stopErr
	}
	y.alive--
	b.end()
	return nil
}

func (y *yard) pool(maximum int) *Pool[string, *box] {
	y.limits.Concurrency = max(y.limits.Concurrency, 1)
	return New(maximum, Backend[string, *box]{
		Open: y.open, Stop: func(b *box) error { return b.Stop(context.Background()) }, Limits: func(string) Limits { return y.limits },
	})
}

// held is a member with its lease.
type held struct {
	*box
	lease *Lease[string, *box]
}

func (h held) release(reuse bool) { h.lease.Release(reuse) }

func lease(t *testing.T, p *Pool[string, *box], class string) held {
	t.Helper()
	l, err := p.Queue(class, nil, false).Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, class, l.Member().class)
	l.Sent(nil)
	return held{l.Member(), l}
}

// running waits until a lease runs, wherever that is, as package sbx does.
func running[C comparable, M Member](ctx context.Context, turn Turn[C, M]) (*Lease[C, M], error) {
	for {
		l, err := turn.Wait(ctx)
		if err != nil {
			return nil, err
		}
		l.Sent(func() bool { return true })
		select {
		case <-l.Running():
			l.Sent(nil)
			return l, nil
		case <-l.Moved():
		}
		if !l.SentBack() {
			l.Sent(nil)
			return l, nil
		}
		turn = turn.Again()
	}
}

func TestLeaseReusesTheMostRecentlyUsed(t *testing.T) {
	y := &yard{}
	p := y.pool(3)
	a, b := lease(t, p, "x"), lease(t, p, "x")
	assert.NotSame(t, a.box, b.box)
	a.release(true)
	b.release(true)
	assert.Same(t, b.box, lease(t, p, "x").box)
	assert.Equal(t, 2, p.Count())
	require.NoError(t, p.Close())
	assert.Zero(t, y.alive)
	assert.Zero(t, p.Count())
}

func TestMaximumIsNeverPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: 3 * time.Millisecond, stopTime: 2 * time.Millisecond}
		p := y.pool(4)
		var leased, served atomic.Int32
		var holders sync.WaitGroup
		for i := range 200 {
			holders.Go(func() {
				b, err := p.Queue([]string{"x", "y", "z"}[i%3], nil, false).Wait(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				assert.LessOrEqual(t, leased.Add(1), int32(4))
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				leased.Add(-1)
				served.Add(1)
				b.Release(i%7 != 0)
			})
		}
		holders.Wait()
		assert.EqualValues(t, 200, served.Load())
		require.NoError(t, p.Close())
		assert.LessOrEqual(t, y.most, 4)
		assert.Zero(t, y.alive)
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&yard{}).pool(1)
		held := lease(t, p, "x")
		order := make(chan int, 10)
		for i := range 10 {
			go func() {
				b, err := p.Queue("x", nil, false).Wait(t.Context())
				if assert.NoError(t, err) {
					order <- i
					b.Release(true)
				}
			}()
			synctest.Wait()
		}
		held.release(true)
		for i := range 10 {
			assert.Equal(t, i, <-order)
		}
		require.NoError(t, p.Close())
	})
}

func TestAnotherClassMakesRoomOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopTime: time.Second}
		p := y.pool(2)
		a, b := lease(t, p, "x"), lease(t, p, "x")
		a.release(true)
		b.release(true)
		begin := time.Now()
		c := lease(t, p, "y")
		assert.Equal(t, time.Second, time.Since(begin), "the place is not used before its member has stopped")
		assert.Same(t, b.box, lease(t, p, "x").box, "only the least recently used one made room")
		c.release(true)
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestAPlaceIsFreeWhenItsMemberHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopTime: time.Minute}
		p := y.pool(1)
		lease(t, p, "x").release(false)
		begin := time.Now()
		second := lease(t, p, "x")
		assert.Equal(t, time.Minute, time.Since(begin))
		assert.Equal(t, 2, second.serial)
		require.NoError(t, p.Close())
	})
}

func TestDeadMembersAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(1)
		a := lease(t, p, "x")
		a.release(true)
		a.end()
		synctest.Wait()
		assert.Zero(t, p.Count(), "an idle member that ends is noticed")
		b := lease(t, p, "x")
		assert.NotSame(t, a.box, b.box)
		b.end()
		b.release(true)
		assert.NotSame(t, b.box, lease(t, p, "x").box, "one that ended while it was leased is not leased again")
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestFailedOpenFailsOneWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openErr: errors.New("no room")}
		p := y.pool(1)
		for range 3 {
			_, err := p.Queue("x", nil, false).Wait(t.Context())
			require.EqualError(t, err, "no room")
		}
		assert.Zero(t, p.Count())
		y.openErr = nil
		lease(t, p, "x")
		require.NoError(t, p.Close())
	})
}

func TestAFailedOpenLeavesTheWorkToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(3)
		first := lease(t, p, "a")
		y.mu.Lock()
		y.openErr = errors.New("too many")
		y.mu.Unlock()
		turn := p.Queue("a", nil, false)
		other := p.Queue("b", nil, false)
		synctest.Wait()
		_, err := other.Wait(t.Context())
		require.ErrorContains(t, err, "too many", "there is no b")
		made := y.opened()
		time.Sleep(holdAfter)
		synctest.Wait()
		assert.Equal(t, made+1, y.opened(), "it is tried again within a second")
		time.Sleep(5 * maxHold)
		synctest.Wait()
		made = y.opened()
		time.Sleep(20 * maxHold)
		synctest.Wait()
		assert.GreaterOrEqual(t, y.opened(), made+20)
		assert.LessOrEqual(t, y.opened(), made+40, "ever more rarely")
		first.release(true)
		l, err := turn.Wait(t.Context())
		require.NoError(t, err)
		assert.Same(t, first.box, l.Member())

		// The last one is gone: now the error is all that there is.
		turn = p.Queue("a", nil, false)
		synctest.Wait()
		l.Release(false)
		_, err = turn.Wait(t.Context())
		require.ErrorContains(t, err, "too many")
		require.NoError(t, p.Close())
	})
}

func TestLeaseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(1)
		held := lease(t, p, "x")
		cause := errors.New("tired")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel(cause)
		}()
		_, err := p.Queue("x", nil, false).Wait(ctx)
		require.ErrorIs(t, err, cause)
		_, err = p.Queue("x", nil, false).Wait(ctx)
		require.ErrorIs(t, err, cause, "a context that has ended")
		held.release(true)
		assert.Same(t, held.box, lease(t, p, "x").box, "who left is not served")
		require.NoError(t, p.Close())
	})
}

func TestCancelledLeasesLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Millisecond}
		p := y.pool(2)
		var holders sync.WaitGroup
		for range 300 {
			holders.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(4000))*time.Microsecond)
				defer cancel()
				if b, err := p.Queue("x", nil, false).Wait(ctx); err == nil {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
					b.Release(true)
				}
			})
		}
		holders.Wait()
		synctest.Wait()
		a, b := lease(t, p, "x"), lease(t, p, "x")
		assert.NotSame(t, a.box, b.box, "both places can be had")
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestCloseJoinsWhatIsBeingMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		late := false
		y.openHook = func(ctx context.Context) error {
			<-ctx.Done() // a create that finishes in spite of the cancel
			time.Sleep(time.Second)
			late = true
			return nil
		}
		p := y.pool(1)
		waited := make(chan error, 1)
		go func() {
			_, err := p.Queue("x", nil, false).Wait(t.Context())
			waited <- err
		}()
		synctest.Wait()
		require.NoError(t, p.Close())
		assert.True(t, late)
		assert.Zero(t, y.alive, "what appeared late was stopped")
		require.ErrorIs(t, <-waited, ErrClosed)
		_, err := p.Queue("x", nil, false).Wait(t.Context())
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestCloseStopsLeasedMembersAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopTime: time.Second}
		p := y.pool(5)
		var boxes []held
		for range 5 {
			boxes = append(boxes, lease(t, p, "x"))
		}
		begin := time.Now()
		require.NoError(t, p.Close())
		assert.Equal(t, time.Second, time.Since(begin))
		assert.Zero(t, y.alive)
		for _, b := range boxes {
			b.release(true) // after Close it does nothing
		}
		require.NoError(t, p.Close())
	})
}

func TestAStopThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopErr: errors.New("stuck")}
		p := y.pool(1)
		lease(t, p, "x").release(false)
		go func() {
			time.Sleep(10 * time.Second)
			y.mu.Lock()
			defer y.mu.Unlock()
			y.stopErr = nil
		}()
		begin := time.Now()
		lease(t, p, "x")
		assert.GreaterOrEqual(t, time.Since(begin), 10*time.Second, "its place is not free before")
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}

func TestCloseTriesAgainWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{stopErr: errors.New("stuck")}
		p := y.pool(2)
		a, b := lease(t, p, "x"), lease(t, p, "y")
		a.release(true)
		err := p.Close()
		require.ErrorIs(t, err, y.stopErr)
		assert.ErrorContains(t, err, "x-1 is left: stuck")
		assert.ErrorContains(t, err, "y-2 is left: stuck")
		assert.Equal(t, 2, p.Count())
		y.stopErr = nil
		require.NoError(t, p.Close())
		assert.Zero(t, p.Count())
		b.end()
	})
}

func BenchmarkLease(b *testing.B) {
	p := (&yard{}).pool(1)
	for b.Loop() {
		m, err := p.Queue("x", nil, false).Wait(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		m.Release(true)
	}
	_ = p.Close()
}

// There is room for fewer members than there might be, and nobody who waits is to hear of it.
func TestABurstThatFindsLessRoomThanThereMightBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		tried := 0
		y.openHook = func(context.Context) error {
			y.mu.Lock()
			tried++
			first := tried == 1
			y.mu.Unlock()
			if !first {
				return errors.New("no room")
			}
			time.Sleep(time.Second)
			return nil
		}
		p := y.pool(3)
		for range 20 {
			turn := p.Queue("x", nil, false)
			go func() {
				l, err := turn.Wait(t.Context())
				if assert.NoError(t, err) {
					l.Release(true)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.NoError(t, p.Close())
	})
}

func TestABurstThatFindsNoRoomFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openErr: errors.New("no room")}
		p := y.pool(3)
		began := time.Now()
		var waits sync.WaitGroup
		for range 20 {
			turn := p.Queue("x", nil, false)
			waits.Go(func() {
				_, err := turn.Wait(t.Context())
				assert.EqualError(t, err, "no room")
			})
		}
		waits.Wait()
		assert.Zero(t, time.Since(began))
		require.NoError(t, p.Close())
	})
}

// What is left of a member that could not be made keeps its place until it has stopped, and nobody waits for it in vain.
func TestWhatIsLeftOfAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed, stuck := errors.New("failed"), errors.New("stuck")
		y := &yard{openErr: failed, leaves: true, stopErr: stuck}
		p := y.pool(1)
		_, err := p.Queue("x", nil, false).Wait(t.Context())
		require.ErrorIs(t, err, failed)
		assert.Equal(t, 1, p.Count())
		began := time.Now()
		_, err = p.Queue("x", nil, false).Wait(t.Context())
		require.ErrorIs(t, err, stuck)
		assert.Equal(t, stuckAfter, time.Since(began))
		require.ErrorIs(t, p.Close(), stuck)
		y.mu.Lock()
		y.stopErr = nil
		y.mu.Unlock()
		require.NoError(t, p.Close())
		assert.Zero(t, y.alive)
	})
}
