package proof

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var trials = flag.Int("trials", 6, "trials for each way and driver")

// patience is after how long a call that has not returned hangs. None takes that long.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A way is how the guilty call of each trial ends its sandbox.
type way struct {
	name      string
	sandboxes int
	lease     time.Duration // 0 is the default
	happens   accident
	// shoots says that it is somebody outside who ends the sandbox, whatever runs there.
	shoots bool
}

func ways(d driver.Driver) []way {
	all := []way{
		{name: "exit", sandboxes: 4}, {name: "panic elsewhere", sandboxes: 4}, {name: "kill", sandboxes: 4}, {name: "cut", sandboxes: 4},
		// Each of these takes as long as a lease, but no work.
		{name: "stop", sandboxes: 24, lease: 400 * time.Millisecond, happens: silenced},
	}
	if d.Name() == "process" { // where who runs the program can see and kill the workers without searching
		all = append(all, way{name: "shot from outside", sandboxes: 4, happens: shot, shoots: true})
	}
	return all
}

// dockerVariable asks for the Docker driver, too, as in its own tests: it names two images of the engine, separated by a comma.
const (
	dockerName     = "docker"
	dockerVariable = "SBX_TEST_DOCKER"
)

func TestDelivery(t *testing.T) {
	drivers := []driver.Driver{process.New(), local.New(nil)}
	if image, _, ok := strings.Cut(os.Getenv(dockerVariable), ","); ok {
		drivers = append(drivers, docker.New(&docker.Options{Image: image}))
	}
	for _, d := range drivers {
		for _, w := range ways(d) {
			t.Run(d.Name()+"/"+w.name, func(t *testing.T) { prove(t, d, w, *trials) })
		}
	}
}

// prove runs trials of one way in a session of its own, and then looks at what was told and what is left.
func prove(t *testing.T, d driver.Driver, w way, trials int) {
	began := time.Now()
	before := descriptors()
	r := newRun(t, d, w)
	r.all(t, trials)
	r.begin(t, kind{name: "last", end: "return"}, rand.New(rand.NewPCG(r.seed, 0)))()
	if runtime.GOOS == "linux" {
		if d.Name() != dockerName { // whose sandboxes are the engine's
			assert.NotEmpty(t, descendants(), "while the session is open, they are found")
		}
		assert.Greater(t, len(descriptors()), len(before))
	}
	r.close(t)
	assert.Empty(t, descendants(), "processes")
	assert.NoError(t, goleak.Find())
	// gRPC closes its socket a moment after its connection.
	assert.Eventually(t, func() bool { return len(descriptors()) <= len(before) }, 10*time.Second, 10*time.Millisecond, "open files")
	problems, counts := r.verdict()
	for i, problem := range problems {
		if i == 20 {
			t.Errorf("and %d more", len(problems)-i)
			break
		}
		t.Error(problem)
	}
	t.Logf("%d trials in %v: %s", trials, time.Since(began).Round(time.Millisecond), counts)
}

// run is the trials of one way.
type run struct {
	way     way
	session *sbx.Session
	journal string // empty where sandboxes share no file with the program
	lines   *lineCounter
	seed    uint64
	serial  atomic.Int64

	mu      sync.Mutex
	reports []report
}

func newRun(t *testing.T, d driver.Driver, w way) *run {
	r := &run{way: w, lines: &lineCounter{counts: map[string]int{}}, seed: rand.Uint64()}
	opts := []sbx.OpenOption{sbx.Driver(d), sbx.MaxSandboxes(w.sandboxes), sbx.Logger(slog.New(r.lines))}
	if w.lease > 0 {
		opts = append(opts, sbx.Lease(w.lease))
	}
	if d.Name() == "process" {
		r.journal = filepath.Join(t.TempDir(), "journal")
		require.NoError(t, os.WriteFile(r.journal, nil, 0o600))
	}
	var err error
	r.session, err = sbx.Open(t.Context(), opts...)
	require.NoError(t, err)
	return r
}

// all runs the trials, twice as many at a time as there are sandboxes, so that calls wait for one another.
func (r *run) all(t *testing.T, trials int) {
	var left atomic.Int64
	left.Store(int64(trials))
	var lanes sync.WaitGroup
	for lane := range 2 * r.way.sandboxes {
		lanes.Go(func() {
			random := rand.New(rand.NewPCG(r.seed, uint64(lane)))
			for left.Add(-1) >= 0 && !t.Failed() {
				r.trial(t, random)
			}
		})
	}
	lanes.Wait()
}

// trial is one guilty call with others before and behind it.
func (r *run) trial(t *testing.T, random *rand.Rand) {
	var calls sync.WaitGroup
	begin := func(k kind) {
		wait := r.begin(t, k, random)
		calls.Go(wait)
	}
	for range crowd(random) {
		begin(innocent(random))
	}
	if r.way.shoots {
		delay := time.Duration(random.Int64N(int64(5 * time.Millisecond)))
		calls.Go(func() {
			time.Sleep(delay)
			if pids := children(); len(pids) > 0 {
				_ = shoot(pids[rand.IntN(len(pids))])
			}
		})
		begin(innocent(random))
	} else {
		begin(guilty(r.way.name, random))
	}
	for range crowd(random) {
		begin(innocent(random))
	}
	calls.Wait()
}

// crowd is how many calls go together: sometimes so many that they wait in busy sandboxes.
func crowd(random *rand.Rand) int {
	if random.IntN(40) == 0 {
		return 40
	}
	return random.IntN(5)
}

func guilty(end string, random *rand.Rand) kind {
	k := kind{name: "guilty", end: end}
	switch random.IntN(20) {
	case 0:
		k.name, k.hasty = "guilty and cancelled", true
	case 1:
		k.name, k.retries = "guilty in each of 2 attempts", 1
	case 2:
		k.name, k.retries, k.ends = "guilty in 1 of 3 attempts", 2, 1
	}
	return k
}

func innocent(random *rand.Rand) kind {
	switch random.IntN(10) {
	case 0, 1:
		return kind{name: "cancelled", end: "return", hasty: true}
	case 2:
		return kind{name: "with a deadline", end: "wait", hasty: true}
	case 3:
		return kind{name: "with a timeout", end: "wait", hasty: true}
	case 4:
		return kind{name: "fails", end: "fail"}
	case 5:
		return kind{name: "panics", end: "panic"}
	}
	return kind{name: "innocent", end: "return"}
}

// begin starts a call. What it returns waits for the call and notes what the caller is told.
func (r *run) begin(t *testing.T, k kind, random *rand.Rand) (wait func()) {
	mark := fmt.Sprint(r.serial.Add(1))
	short := func() time.Duration { return time.Duration(random.Int64N(int64(3 * time.Millisecond))) }
	order := Order{Journal: r.journal, Mark: mark, End: k.end, Ends: k.ends, Work: short()}
	ctx, cancel := context.WithCancel(t.Context())
	var opts []sbx.FunctionOption
	switch {
	case k.retries > 0:
		opts = append(opts, sbx.Retries(k.retries))
	case k.name == "with a timeout":
		opts = append(opts, sbx.Timeout(max(short(), 1)))
	case k.name == "with a deadline":
		ctx, cancel = context.WithTimeout(t.Context(), 3*short())
	case k.hasty:
		stop := time.AfterFunc(3*short(), cancel).Stop
		inner := cancel
		cancel = func() { stop(); inner() }
	}
	call := r.session.Function(Obey, opts...).Spawn(ctx, order)
	return func() {
		defer cancel()
		if !returns(call.Done(), patience) {
			t.Errorf("call %s (%s) hangs\n%s", mark, k.name, goroutines())
			r.note(report{kind: k, mark: mark, hung: true})
			return
		}
		result, err := call.Result(context.Background())
		r.note(reportOf(k, mark, result, err, r.way.happens))
	}
}

// returns waits for done, but not for ever.
func returns(done <-chan struct{}, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (r *run) note(rep report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, rep)
}

func goroutines() string {
	var text bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&text, 1)
	return text.String()
}

func (r *run) close(t *testing.T) {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = r.session.Close()
	}()
	if !returns(done, patience) {
		t.Fatalf("Close hangs\n%s", goroutines())
	}
	require.NoError(t, err)
}

// verdict compares what callers were told with the marks. Call it when the session is closed: no function runs any more.
func (r *run) verdict() (problems []string, counts string) {
	marks, garbled := r.marks()
	for _, line := range garbled {
		problems = append(problems, fmt.Sprintf("a line that nobody wrote: %q", line))
	}
	var results, notBegun, mayHaveRun, unmarked, failed, bystanders, retried, all int
	for _, rep := range r.reports {
		n := marks[rep.mark]
		delete(marks, rep.mark)
		all += n
		if problem := rep.judge(n, r.way.happens); problem != "" {
			problems = append(problems, fmt.Sprintf("call %s (%s, seed %d): %s: marks: %d, delivery: %v, %s", rep.mark, rep.name, r.seed, problem, n, rep.delivery, rep.text))
		}
		switch {
		case rep.returned:
			results++
		case rep.delivery == sbx.NotBegun:
			notBegun++
		case rep.delivery == sbx.Failed:
			failed++
		default:
			mayHaveRun++
			if n == 0 {
				unmarked++
			}
			if rep.lost && !rep.guilty() {
				bystanders++
			}
		}
		if n > 1 {
			retried++
		}
	}
	for mark := range marks {
		problems = append(problems, fmt.Sprintf("a mark that no call was to leave: %q", mark))
	}
	stats := r.session.Stats()
	return problems, fmt.Sprintf("%d calls: %d results, %d not begun, %d may have run (%d without a mark), %d failed; %d innocent ones lost, %d ran again as allowed; %d sandboxes, %d times sent without a begin, %d moved",
		len(r.reports), results, notBegun, mayHaveRun, unmarked, failed, bystanders, retried, stats.Started, int(stats.Sent)-all, stats.Moved)
}

// marks counts the marks, and returns the lines that are none.
func (r *run) marks() (counts map[string]int, garbled []string) {
	if r.journal == "" {
		return r.lines.counts, nil
	}
	file, err := os.Open(r.journal)
	if err != nil {
		return nil, []string{err.Error()}
	}
	defer file.Close()
	counts = map[string]int{}
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadString('\n')
		if err == io.EOF && line == "" {
			return counts, garbled
		}
		mark, ok := strings.CutPrefix(line, markPrefix)
		if !ok || err != nil {
			garbled = append(garbled, line)
			continue
		}
		counts[strings.TrimSuffix(mark, "\n")]++
	}
}

// lineCounter is a log's handler that counts the marks among the lines that functions print: what they have printed
// arrives, whatever becomes of them.
type lineCounter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (*lineCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c *lineCounter) Handle(_ context.Context, record slog.Record) error {
	if mark, ok := strings.CutPrefix(record.Message, markPrefix); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.counts[mark]++
	}
	return nil
}

func (c *lineCounter) WithAttrs([]slog.Attr) slog.Handler { return c }

func (c *lineCounter) WithGroup(string) slog.Handler { return c }
