package wire

import (
	"runtime"
	"sync"
	"time"
)

// A crowd tells when this process's goroutines wait so long for a processor that messages may be neither sent nor read in time: with
// thousands of them busy that takes minutes. What a timer wakes runs at once, as a rule, so a timer's goroutine can tell: it sends another one to
// the end of the queue. (The scheduling latencies in runtime/metrics are samples, and too few on a busy machine.)
type crowd struct {
	wait  time.Duration
	since time.Time // when the goroutine was sent
	ran   chan time.Time
}

// newCrowd returns a crowd that tells of waits of at least wait.
func newCrowd(wait time.Duration) *crowd {
	c := &crowd{wait: wait, ran: make(chan time.Time, 1)}
	c.send()
	return c
}

// send sends a goroutine to the end of the scheduler's queue. It ends when its turn comes.
func (c *crowd) send() {
	c.since = time.Now()
	go func() {
		runtime.Gosched()
		c.ran <- time.Now()
	}()
}

// waited returns how long a goroutine waits for its turn, as far as is known; 0 if that is not long.
func (c *crowd) waited() time.Duration {
	waited := time.Since(c.since)
	select {
	case ran := <-c.ran:
		waited = ran.Sub(c.since)
		c.send()
	default:
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
	var mu sync.Mutex
	var longest time.Duration
	ended := false
	timers := make([]*time.Timer, tellers)
	mu.Lock()
	defer mu.Unlock()
	for i := range timers {
		timers[i] = time.AfterFunc(interval/(tellers+1)*time.Duration(i+1), func() {
			mu.Lock()
			defer mu.Unlock()
			if ended {
				return
			}
			timers[i].Reset(interval)
			if wait := waited(); wait > 0 {
				longest = max(longest, wait)
				tell()
			}
		})
	}
	crowd = func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		wait := max(longest, waited())
		longest = 0
		return wait
	}
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
