package wire

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A crowd tells when this process's goroutines wait so long for a processor that messages may be neither sent nor read in time: with
// thousands of them busy that takes minutes. What a timer wakes runs at once, as a rule, so a timer's goroutine can tell: it sends another one to
// the end of the queue. (The scheduling latencies in runtime/metrics are samples, and too few on a busy machine.)
//
// Nothing here locks what another one needs: whoever is interrupted while it holds a lock waits for its next turn, as long as all others do, and with
// it who wants the lock.
type crowd struct {
	began time.Time
	wait  time.Duration
	since atomic.Int64 // when the goroutine was sent, from began
	ran   atomic.Int64 // when its turn came; 0 before, and -1 while one is sent
}

// newCrowd returns a crowd that tells of waits of at least wait.
func newCrowd(wait time.Duration) *crowd {
	c := &crowd{began: time.Now(), wait: wait}
	c.send()
	return c
}

// send sends a goroutine to the end of the scheduler's queue. It ends when its turn comes.
func (c *crowd) send() {
	c.since.Store(int64(time.Since(c.began)))
	c.ran.Store(0)
	go func() {
		runtime.Gosched()
		c.ran.Store(max(int64(time.Since(c.began)), 1))
	}()
}

// waited returns how long a goroutine waits for its turn, as far as is known; 0 if that is not long. It may be called by several goroutines: one of
// them, while another one sends, can be told of a wait that is over.
func (c *crowd) waited() time.Duration {
	since, ran := c.since.Load(), c.ran.Load()
	waited := time.Since(c.began) - time.Duration(since)
	if ran > 0 && c.ran.CompareAndSwap(ran, -1) {
		waited = time.Duration(ran - since)
		c.send()
	}
	if waited < c.wait {
		return 0
	}
	return waited
}

// tellers is how many timers look for a crowd.
const tellers = 4

// tellOften asks waited several times in each interval, and calls tell when it was long: of the goroutines that are woken at the same time only
// the last one runs at once, and the timers of user code wake some too. crowd returns the longest wait since it was called last; after quit
// nothing is called any more.
func tellOften(interval time.Duration, waited func() time.Duration, tell func()) (crowd func() time.Duration, quit func()) {
	var mu sync.RWMutex // that only quit locks
	var longest atomic.Int64
	ended := false
	timers := make([]*time.Timer, tellers)
	for i := range timers {
		timers[i] = time.AfterFunc(math.MaxInt64, func() {
			mu.RLock()
			defer mu.RUnlock()
			if ended {
				return
			}
			timers[i].Reset(interval)
			wait := waited()
			if wait <= 0 {
				return
			}
			for before := longest.Load(); before < int64(wait) && !longest.CompareAndSwap(before, int64(wait)); before = longest.Load() {
			}
			tell()
		})
	}
	for i, timer := range timers { // which must be there
		timer.Reset(interval / (tellers + 1) * time.Duration(i+1))
	}
	crowd = func() time.Duration { return max(time.Duration(longest.Swap(0)), waited()) }
	quit = func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		for _, timer := range timers {
			timer.Stop()
		}
	}
	return crowd, quit
}
