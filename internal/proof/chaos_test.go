package proof

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var (
	chaosCalls = flag.Int64("chaos-calls", 20_000, "calls of each driver's chaos")
	chaosSeed  = flag.Uint64("chaos-seed", 0, "what the chaos is drawn from; 0 is a new one")
)

// maxGrowth is how much more memory the program may hold after a chaos than before, in bytes.
const maxGrowth = 64 << 20

// Two maps, of a function that is called at most once and of one that is called at least once, run over eight sandboxes in which others kill,
// stop, fill and cut what they can. Whatever happens: each input is answered once, and the ledger outside agrees with what was told.
func TestChaos(t *testing.T) {
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		t.Run(d.Name(), func(t *testing.T) {
			if runtime.GOOS != "linux" {
				t.Skip("what is left is looked for in /proc")
			}
			seed := *chaosSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("seed %d", seed)
			newChaos(t, d, seed).run(t, *chaosCalls)
		})
	}
}

type chaos struct {
	driver  driver.Driver
	seed    uint64
	ledger  string
	session *sbx.Session
	harms   []string
	harmed  atomic.Int64
}

func newChaos(t *testing.T, d driver.Driver, seed uint64) *chaos {
	c := &chaos{driver: d, seed: seed, harms: []string{"exit", "exit", "panic elsewhere", "panic elsewhere", "kill", "kill", "cut", "cut", "stop"}}
	folder := t.TempDir()
	// Sandboxes run as other users.
	require.NoError(t, os.Chmod(folder, 0o777))
	c.ledger = filepath.Join(folder, "ledger")
	require.NoError(t, os.WriteFile(c.ledger, nil, 0o600))
	require.NoError(t, os.Chmod(c.ledger, 0o666))
	return c
}

// open opens the session whose sandboxes are harmed.
func (c *chaos) open(t *testing.T) {
	opts := []sbx.OpenOption{
		sbx.Driver(c.driver), sbx.MaxSandboxes(8), sbx.Lease(time.Second), sbx.Logger(slog.New(slog.DiscardHandler)),
		sbx.Concurrency(2), sbx.Env(ledgerVariable, c.ledger),
	}
	if c.driver.Name() == "local" {
		opts = append(opts, sbx.MountWritable(filepath.Dir(c.ledger), "/ledger"), sbx.Env(ledgerVariable, "/ledger/"+filepath.Base(c.ledger)),
			sbx.LimitIfPossible(sbx.Resources{MemoryMiB: 256, DiskMiB: 16}))
	}
	var err error
	c.session, err = sbx.Open(t.Context(), opts...)
	require.NoError(t, err)
	report := c.session.Report()
	if report.Capability("disk").Held {
		c.harms = append(c.harms, "disk")
	}
	if report.Capability("memory").Held {
		c.harms = append(c.harms, "memory")
	}
}

func (c *chaos) run(t *testing.T, calls int64) {
	before, heap := descriptors(), heapSize()
	c.open(t)
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var harm, maps sync.WaitGroup
	harm.Go(func() { c.harm(ctx, rand.New(rand.NewPCG(c.seed, 1))) })
	harm.Go(func() { c.shoot(ctx, rand.New(rand.NewPCG(c.seed, 2))) })
	answers := make([]answer, calls)
	half := calls / 2
	maps.Go(func() {
		for r := range c.session.Function(Once).MapUnordered(t.Context(), from(0, half)) {
			answers[r.Input].note(r, false)
		}
	})
	maps.Go(func() {
		for r := range c.session.Function(Again, sbx.Retries(1_000_000)).MapUnordered(t.Context(), from(half, calls)) {
			answers[r.Input].note(r, true)
		}
	})
	maps.Wait()
	stop()
	harm.Wait()
	stats := c.session.Stats()
	require.NoError(t, c.session.Close())

	lost, refused := c.judge(t, answers)
	assert.Positive(t, c.harmed.Load())
	t.Logf("%d calls in %v: %d harms, %d sandboxes; of calls that run at most once %d were lost and %d not begun", calls, time.Since(began).Round(time.Millisecond),
		c.harmed.Load(), stats.Started, lost, refused)
	assert.Empty(t, descendants(), "processes")
	assert.NoError(t, goleak.Find())
	assert.Eventually(t, func() bool { return len(descriptors()) <= len(before) }, 10*time.Second, 10*time.Millisecond, "open files")
	answers = nil
	assert.Less(t, heapSize(), heap+maxGrowth)
}

func heapSize() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func from(first, end int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for n := first; n < end; n++ {
			if !yield(n) {
				return
			}
		}
	}
}

// harm calls functions that do harm where the others run.
func (c *chaos) harm(ctx context.Context, random *rand.Rand) {
	action := c.session.Action(Harm, sbx.Timeout(3*time.Second))
	var calls sync.WaitGroup
	defer calls.Wait()
	for sleep(ctx, time.Duration(random.Int64N(int64(500*time.Millisecond)))) {
		how := c.harms[random.IntN(len(c.harms))]
		calls.Go(func() {
			if err := action.Call(ctx, how); err != nil {
				c.harmed.Add(1)
			}
		})
	}
}

// shoot kills and stops workers from outside, where they can be told from others.
func (c *chaos) shoot(ctx context.Context, random *rand.Rand) {
	for c.driver.Name() == "process" && sleep(ctx, time.Duration(random.Int64N(int64(time.Second)))) {
		if pids := children(); len(pids) > 0 {
			pid, how := pids[random.IntN(len(pids))], shoot
			if random.IntN(8) == 0 && hasExecuted(pid) {
				how = hold
			}
			if how(pid) == nil {
				c.harmed.Add(1)
			}
		}
	}
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer is what was told about one input, without what takes much memory.
type answer struct {
	times    uint8
	ok       bool
	again    bool // it may have run several times
	delivery sbx.Delivery
	wrong    string
}

func (a *answer) note(r sbx.Result[int64, int64], again bool) {
	a.times++
	a.again = again
	var call *sbx.CallError
	var lost *sbx.SandboxLostError
	switch {
	case r.Err == nil:
		a.ok = true
		if r.Output != -r.Input {
			a.wrong = fmt.Sprintf("the result is %d", r.Output)
		}
	case !errors.As(r.Err, &call):
		a.wrong = r.Err.Error()
	default:
		a.delivery = call.Delivery
		if call.Delivery != sbx.MayHaveRun || !errors.As(r.Err, &lost) {
			a.wrong = r.Err.Error()
		}
	}
}

// judge compares what was told with the ledger. It returns how many calls were lost, and how many of them had not begun.
func (c *chaos) judge(t *testing.T, answers []answer) (lost, unmarked int) {
	ran := make([]uint16, len(answers))
	file, err := os.Open(c.ledger)
	require.NoError(t, err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		require.NoError(t, err)
		ran[n]++
	}
	require.NoError(t, lines.Err())
	problems := 0
	for n, a := range answers {
		problem := a.wrong
		switch {
		case a.times != 1:
			problem = fmt.Sprintf("it was answered %d times", a.times)
		case problem != "":
		case a.again && !a.ok:
			problem = "it was not run until it had a result"
		case a.ok && ran[n] == 0:
			problem = "it has a result and never ran"
		case !a.again && ran[n] > 1:
			problem = fmt.Sprintf("it ran %d times", ran[n])
		}
		if !a.ok {
			lost++
			if ran[n] == 0 {
				unmarked++
			}
		}
		if problem != "" {
			if problems++; problems <= 20 {
				t.Errorf("input %d (seed %d): %s; it ran %d times", n, c.seed, problem, ran[n])
			}
		}
	}
	if problems > 20 {
		t.Errorf("and %d more", problems-20)
	}
	return lost, unmarked
}
