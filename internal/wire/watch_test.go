package wire

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
)

func ping() *wirepb.Message { return &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}} }

// alone is neither side crowded.
func alone(bool) uint64 { return 0 }

// drain receives until the connection ends, and answers while it should.
func drain(c *Conn, answers *atomic.Bool) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
		if answers.Load() {
			c.Send(ping(), nil, nil)
		}
	}
}

func TestASilentSideLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, worker, cut := connect(t)
		var answers, never atomic.Bool
		answers.Store(true)
		go drain(host, &never)
		go drain(worker, &answers)
		lapsed := false
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			host.Watch(ctx, time.Minute, func() { host.Send(ping(), nil, nil) }, alone, func() { lapsed = true })
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.False(t, lapsed, "the other side answers")
		answers.Store(false)
		begin := time.Now()
		<-done
		assert.True(t, lapsed)
		assert.InDelta(t, time.Minute, time.Since(begin), float64(time.Minute/beats))
		cut()
		synctest.Wait()
	})
}

// A side that has no time to send says otherwise that it is alive.
func TestACrowdedSideDoesNotLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _, _ := connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var theirs, over atomic.Uint64
		lapsed := make(chan struct{})
		go host.Watch(ctx, time.Minute, func() {}, func(bool) uint64 { return theirs.Add(1 - over.Load()) }, func() { close(lapsed) })
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-lapsed:
			t.Fatal("it was alive")
		default:
		}
		over.Store(1)
		begin := time.Now()
		<-lapsed
		assert.InDelta(t, time.Minute, time.Since(begin), float64(time.Minute/beats))
	})
}

// A side that is crowded itself gives the other one more time, by how long its goroutines wait, but gives it up at last.
func TestASilentSideLapsesInACrowd(t *testing.T) {
	for _, c := range []struct {
		name       string
		wait       func(since time.Duration) time.Duration
		least, end time.Duration
	}{
		{"crowded for ever", func(time.Duration) time.Duration { return 20 * time.Second }, 3 * time.Minute, 10 * time.Minute},
		{"stopped for a day", func(since time.Duration) time.Duration {
			if since > 15*time.Second {
				return 0
			}
			return 24 * time.Hour
		}, time.Minute, 5 * time.Minute},
		{"a wait longer than the lease", func(since time.Duration) time.Duration { return min(since, time.Hour) }, 5 * time.Hour, 12 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, _, _ := connect(t)
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				begin := time.Now()
				lapsed := false
				waited := func() time.Duration { return c.wait(time.Since(begin)) }
				host.watch(ctx, time.Minute/beats, waited, func() {}, alone, func() { lapsed = true })
				assert.True(t, lapsed)
				assert.GreaterOrEqual(t, time.Since(begin), c.least)
				assert.LessOrEqual(t, time.Since(begin), c.end)
			})
		})
	}
}

// A beat that blocks holds up nothing.
func TestABeatThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _, _ := connect(t)
		release, begin := make(chan struct{}), time.Now()
		var told atomic.Int64
		host.Watch(t.Context(), time.Minute, func() { <-release }, func(bool) uint64 { told.Add(1); return 0 }, func() { close(release) })
		assert.Equal(t, time.Minute, time.Since(begin))
		assert.EqualValues(t, 1+beats, told.Load())
	})
}

func TestCrowd(t *testing.T) {
	// One processor is enough to see it on: the test takes a processor's time, and does not depend on how many there are.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	c := newCrowd(50 * time.Millisecond)
	assert.Zero(t, newCrowd(time.Hour).waited())
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 100 {
		group.Go(func() {
			for ctx.Err() == nil {
			}
		})
	}
	// Each gets ten milliseconds at a time, and the scheduler lets some pass the queue.
	longest := time.Duration(0)
	for range 5 {
		time.Sleep(200 * time.Millisecond)
		longest = max(longest, c.waited())
	}
	assert.GreaterOrEqual(t, longest, 100*time.Millisecond)
	assert.Less(t, longest, time.Minute)
}

// The other side hears of a crowd whether or not the goroutine of Watch gets its turn.
func TestTellOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wait, told atomic.Int64
		crowd, quit := tellOften(time.Second, func() time.Duration { return time.Duration(wait.Load()) }, func() { told.Add(1) })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Zero(t, told.Load())
		wait.Store(int64(time.Minute))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 10*tellers, told.Load())
		wait.Store(0)
		assert.Equal(t, time.Minute, crowd(), "the longest since the last call")
		assert.Zero(t, crowd())
		wait.Store(int64(time.Minute))
		quit()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 10*tellers, told.Load(), "nothing after the end")
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _, _ := connect(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		host.Watch(ctx, time.Hour, func() {}, alone, func() { t.Error("lapsed") })
	})
}
