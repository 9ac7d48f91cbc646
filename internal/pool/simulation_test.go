package pool

import (
	"container/heap"
	"context"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	simulated = flag.Int("simulate", 0, "`calls` of each simulation; 0 is few")
	seed      = flag.Uint64("seed", 0, "of the simulations; 0 is any")
)

// node is a member of a simulation: it lives for a while.
type node struct {
	done chan struct{}
	end  func()
	life *time.Timer
}

func (n *node) Done() <-chan struct{}       { return n.done }
func (n *node) Check(context.Context) error { return nil }
func (n *node) Queues() bool                { return true }

// simulation runs calls over members that start slowly or not at all, and die, in a bubble's time.
type simulation struct {
	members  int
	calls    int
	lasts    func(random *rand.Rand) time.Duration // a call
	fails    float64                               // which part of the starts
	life     time.Duration                         // of a member, on the average
	startFor func(random *rand.Rand) time.Duration

	random    *rand.Rand // for starts
	mu        sync.Mutex // of random
	durations []time.Duration
	wasted    []time.Duration // in attempts that were lost
	next      atomic.Int64
	// What became of each call: how often it began, was lost while it ran, and ended.
	begun, lost, ended []atomic.Uint32
	opened, dead       atomic.Int64
}

func (s *simulation) open(context.Context, string) (*node, error) {
	s.mu.Lock()
	start, fails, life := s.startFor(s.random), s.random.Float64() < s.fails, time.Duration(s.random.ExpFloat64()*float64(s.life))
	s.mu.Unlock()
	time.Sleep(start)
	if fails {
		return nil, errors.New("no room")
	}
	s.opened.Add(1)
	n := &node{done: make(chan struct{})}
	n.end = sync.OnceFunc(func() { close(n.done) })
	n.life = time.AfterFunc(life, func() {
		s.dead.Add(1)
		n.end()
	})
	return n, nil
}

func (s *simulation) stop(n *node) error {
	n.life.Stop()
	time.Sleep(10 * time.Millisecond)
	n.end()
	return nil
}

// call runs one call to its end, as package sbx does one that may be retried.
func (s *simulation) call(p *Pool[string, *node], i int, timer *time.Timer) {
	turn := p.Queue("x", nil, true)
	for {
		l, err := turn.Wait(context.Background())
		if err != nil { // the start on which it relied has failed
			turn = p.Queue("x", nil, true)
			continue
		}
		var taken atomic.Bool // what the ledger says
		l.Sent(func() bool { return taken.CompareAndSwap(false, true) })
		began := true
		for waits := true; waits; {
			m := l.Member()
			select {
			case <-l.Running():
				waits = false
			case <-l.Moved():
				waits, began = false, !l.SentBack()
			case <-m.done:
				if l.Drop(m) {
					waits, began = false, false
				}
			}
		}
		if !began {
			turn = turn.Again()
			continue
		}
		l.Sent(nil)
		m := l.Member()
		s.begun[i].Add(1)
		timer.Reset(s.durations[i])
		since := time.Now()
		select {
		case <-timer.C:
			s.ended[i].Add(1)
			l.Release(true)
			return
		case <-m.done:
			s.lost[i].Add(1)
			s.wasted[i] += time.Since(since)
			l.Release(false)
			turn = p.Queue("x", nil, true)
		}
	}
}

// run returns how long all of it took.
func (s *simulation) run(t *testing.T, random *rand.Rand) (took time.Duration) {
	s.random = random
	s.durations = make([]time.Duration, s.calls)
	s.wasted = make([]time.Duration, s.calls)
	for i := range s.durations {
		s.durations[i] = s.lasts(random)
	}
	s.begun, s.lost, s.ended = make([]atomic.Uint32, s.calls), make([]atomic.Uint32, s.calls), make([]atomic.Uint32, s.calls)
	p := New(s.members, Backend[string, *node]{
		Open: s.open, Stop: s.stop, Limits: func(string) Limits { return Limits{Concurrency: 1, Ahead: 8} }, StartsAtOnce: s.members / 5,
	})
	began := time.Now()
	var holders sync.WaitGroup
	for range 3 * s.members { // as a map does that takes its inputs no further ahead
		holders.Go(func() {
			timer := time.NewTimer(time.Hour)
			defer timer.Stop()
			for i := int(s.next.Add(1)) - 1; i < s.calls; i = int(s.next.Add(1)) - 1 {
				s.call(p, i, timer)
			}
		})
	}
	holders.Wait()
	took = time.Since(began)
	stats := p.Stats()
	assert.Zero(t, stats.Busy+stats.Running+stats.Ahead+stats.Waiting, "%+v", stats)
	require.NoError(t, p.Close())
	wrong := 0
	for i := range s.calls {
		if s.ended[i].Load() != 1 || s.begun[i].Load()-s.lost[i].Load() != 1 {
			wrong++
		}
	}
	assert.Zero(t, wrong, "calls that were lost, or ran twice")
	return took
}

// ideal is how long the calls take if each in its turn goes to the member that is free first, of members that are all there from the
// beginning: a list schedule. A call takes as long as all of its attempts.
func (s *simulation) ideal() time.Duration {
	free := make(clock, s.members) // when each member is
	for i := range s.durations {
		free[0] += s.durations[i] + s.wasted[i]
		heap.Fix(&free, 0)
	}
	return slices.Max(free)
}

type clock []time.Duration

func (c clock) Len() int           { return len(c) }
func (c clock) Less(i, j int) bool { return c[i] < c[j] }
func (c clock) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c clock) Push(any)           {}
func (c clock) Pop() any           { return nil }

// TestSimulation has thousands of members run a great many calls, while starts are slow or fail and members die: each call ends once, and all
// end nearly as early as they could.
func TestSimulation(t *testing.T) {
	for _, test := range []struct {
		name  string
		lasts func(*rand.Rand) time.Duration
		most  float64 // of the ideal
	}{
		{"uniform", func(r *rand.Rand) time.Duration { return 900*time.Millisecond + rand200(r) }, 1.05},
		{"heavy tails", func(r *rand.Rand) time.Duration { // Pareto's
			return min(time.Duration(float64(300*time.Millisecond)*math.Pow(1-r.Float64(), -1/1.5)), 30*time.Second)
		}, 1.20},
	} {
		t.Run(test.name, func(t *testing.T) {
			from := *seed
			if from == 0 {
				from = rand.Uint64()
			}
			random := rand.New(rand.NewPCG(from, 0))
			s := &simulation{
				members: 5000, calls: 500_000, lasts: test.lasts, fails: 0.01, life: 20 * time.Minute,
				startFor: func(r *rand.Rand) time.Duration {
					if r.IntN(20) == 0 {
						return 2 * time.Second
					}
					return rand200(r)
				},
			}
			switch {
			case *simulated > 0:
				s.calls = *simulated
			case testing.Short():
				s.members, s.calls = s.members/10, s.calls/10
			}
			var took time.Duration
			wall := time.Now()
			synctest.Test(t, func(t *testing.T) { took = s.run(t, random) })
			best := s.ideal()
			t.Logf("seed %d: %d calls in %v took %v of the ideal %v (%.3f); %d members were opened and %d died; in %v", from, s.calls, s.members,
				took.Round(time.Millisecond), best.Round(time.Millisecond), float64(took)/float64(best), s.opened.Load(), s.dead.Load(), time.Since(wall).Round(time.Millisecond))
			assert.LessOrEqual(t, float64(took), test.most*float64(best))
			assert.NotZero(t, s.dead.Load())
		})
	}
}

func rand200(r *rand.Rand) time.Duration { return time.Duration(r.IntN(200)) * time.Millisecond }

// BenchmarkDispatch is a call of no length among thousands in a pool of thousands.
func BenchmarkDispatch(b *testing.B) {
	const members = 5000
	s := &simulation{life: time.Hour, startFor: func(*rand.Rand) time.Duration { return 0 }, random: rand.New(rand.NewPCG(1, 2))}
	p := New(members, Backend[string, *node]{
		Open: s.open, Stop: func(n *node) error { n.life.Stop(); return nil }, Limits: func(string) Limits { return Limits{Concurrency: 1, Ahead: 8} },
	})
	if err := p.Prewarm(b.Context(), "x", members); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(2 * members / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l, err := running(b.Context(), p.Queue("x", nil, true))
			if err != nil {
				b.Error(err)
				return
			}
			runtime.Gosched() // it runs
			l.Release(true)
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}
