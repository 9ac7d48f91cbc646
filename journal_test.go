package sbx_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	random "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ran are the inputs for which Tally ran, in order.
func ran(t *testing.T, folder string) (ns []int) {
	text, err := os.ReadFile(filepath.Join(folder, "ran"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		n, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		require.NoError(t, err)
		ns = append(ns, n)
	}
	return ns
}

func tallied(folder string, ns ...int) iter.Seq[Tallied] {
	return func(yield func(Tallied) bool) {
		for _, n := range ns {
			if !yield(Tallied{folder, n}) {
				return
			}
		}
	}
}

func TestJournal(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(2))
		path := filepath.Join(t.TempDir(), "journal")
		square := session.Function(Double)
		got := 0
		for n, err := range square.Map(t.Context(), numbers(100), sbx.Journal(path), sbx.Ahead(1)) {
			require.NoError(t, err)
			assert.Equal(t, 2*got, n)
			if got++; got == 40 {
				break
			}
		}
		before := session.Stats().Sent
		results, err := square.MapSlice(t.Context(), slice(100), sbx.Journal(path))
		require.NoError(t, err)
		for i, n := range results {
			assert.Equal(t, 2*i, n)
		}
		assert.LessOrEqual(t, session.Stats().Sent-before, uint64(60), "what was computed is not computed again")
		before = session.Stats().Sent
		again, err := square.MapSlice(t.Context(), slice(100), sbx.Journal(path))
		require.NoError(t, err)
		assert.Equal(t, results, again)
		assert.Equal(t, before, session.Stats().Sent)
	})
}

func slice(n int) (ns []int) {
	for i := range n {
		ns = append(ns, i)
	}
	return ns
}

// Errors are handed out again as they were.
func TestJournalKeepsErrors(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	folder := t.TempDir()
	path := filepath.Join(folder, "journal")
	f := session.Function(TallyOne, sbx.Timeout(100*time.Millisecond))
	once := func() (errs []error) {
		for _, err := range f.Map(t.Context(), tallied(folder, 1, 3, 5, 7, 9), sbx.Journal(path)) {
			errs = append(errs, err)
		}
		return errs
	}
	first, again := once(), once()
	assert.Len(t, ran(t, folder), 5)
	require.Len(t, again, len(first))
	for i := range first {
		if first[i] == nil {
			assert.NoError(t, again[i])
			continue
		}
		require.Error(t, again[i])
		assert.Equal(t, first[i].Error(), again[i].Error())
		var a, b *sbx.CallError
		require.ErrorAs(t, first[i], &a)
		require.ErrorAs(t, again[i], &b)
		if i != 3 { // a timeout that wraps what the function returned has no type of its own
			assert.Equal(t, fmt.Sprintf("%T", a.Err), fmt.Sprintf("%T", b.Err))
		}
		assert.Equal(t, a.Sandbox, b.Sandbox)
		assert.Equal(t, a.Delivery, b.Delivery)
		assert.Equal(t, a.Attempt, b.Attempt)
		assert.Len(t, b.Attempts, len(a.Attempts))
		for _, target := range []error{ErrOdd, errPrivate, os.ErrInvalid, sbx.ErrTimeout, sbx.ErrExited, sbx.ErrOutOfMemory, context.DeadlineExceeded} {
			assert.Equal(t, errors.Is(first[i], target), errors.Is(again[i], target), "%v: %v", first[i], target)
		}
	}
	var panicked *sbx.PanicError
	require.ErrorAs(t, again[2], &panicked)
	require.ErrorIs(t, again[2], ErrOdd)
	assert.NotEmpty(t, panicked.Stack)
	var lost *sbx.SandboxLostError
	require.ErrorAs(t, again[4], &lost)
	assert.Equal(t, 3, lost.Exit.Code)
	require.ErrorIs(t, again[4], sbx.ErrExited)
}

// What is found is the function, the version of its code and the input, as often as it came.
func TestJournalTellsApart(t *testing.T) {
	session := sbxtest.Open(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "journal")
	count := func(f *sbx.Function[Tallied, string], ns ...int) int {
		before := len(ran(t, folder))
		for _, err := range f.Map(t.Context(), tallied(folder, ns...), sbx.Journal(path)) {
			require.NoError(t, err)
		}
		return len(ran(t, folder)) - before
	}
	plain := session.Function(TallyOne)
	one, two := session.Function(TallyOne, sbx.Version("1")), session.Function(TallyOne, sbx.Version("2"))
	assert.Equal(t, 2, count(plain, 1, 2))
	assert.Equal(t, 0, count(plain, 2, 1), "another order")
	assert.Equal(t, 2, count(plain, 2, 2, 1, 4), "a new one, and one more often than before")
	assert.Equal(t, 0, count(plain, 2, 2, 1, 4))
	assert.Equal(t, 2, count(one, 1, 2), "another version")
	assert.Equal(t, 0, count(one, 1, 2))
	assert.Equal(t, 2, count(two, 1, 2))
	assert.Equal(t, 0, count(one, 1, 2))
	require.Error(t, session.Function(TallyOne, sbx.Version("")).Err())

	for _, err := range session.Function(Double).Map(t.Context(), numbers(2), sbx.Journal(path)) {
		require.NoError(t, err)
	}
}

func TestJournalMisuse(t *testing.T) {
	session := sbxtest.Open(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	double := session.Function(Double)
	failure := func(opts ...sbx.MapOption) error {
		for _, err := range double.Map(t.Context(), numbers(3), opts...) {
			return err
		}
		return nil
	}
	var option *sbx.OptionError
	require.ErrorAs(t, failure(sbx.Journal("")), &option)
	require.ErrorIs(t, failure(sbx.Journal(dir)), sbx.ErrNoJournal)
	require.ErrorIs(t, failure(sbx.Journal(filepath.Join(dir, "no", "such"))), os.ErrNotExist)
	foreign := filepath.Join(dir, "foreign")
	require.NoError(t, os.WriteFile(foreign, bytes.Repeat([]byte("something else\n"), 3000), 0o600))
	require.ErrorIs(t, failure(sbx.Journal(foreign)), sbx.ErrNoJournal)
	for _, err := range double.Map(t.Context(), numbers(3), sbx.Journal(path)) {
		require.NoError(t, err)
		require.ErrorIs(t, failure(sbx.Journal(path)), sbx.ErrJournalInUse)
	}
	require.NoError(t, failure(sbx.Journal(path)))
	contents, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, contents[:len(contents)/3], 0o600))
	require.ErrorIs(t, failure(sbx.Journal(path)), sbx.ErrJournalDamaged)
	require.NoError(t, failure(), "the session is as it was")
}

const journalVariable = "SBX_TEST_JOURNAL"

// TestProgramWithJournal is no test: it is the program that the next one kills.
func TestProgramWithJournal(t *testing.T) {
	folder := os.Getenv(journalVariable)
	if folder == "" {
		t.Skip("not on its own")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(2), sbx.Logger(slog.New(slog.DiscardHandler)))
	f := session.Function(TallyOne, sbx.Version("1"))
	for r := range f.MapUnordered(t.Context(), tallied(folder, killedInputs()...), sbx.Journal(filepath.Join(folder, "journal"))) {
		if r.Index < 0 {
			t.Fatal(r.Err)
		}
		fmt.Println("got", r.Input.N, r.Index, len(r.Output), r.Err != nil)
		_, _ = os.Stdin.Read(make([]byte, 1)) // until that is read: a pipe has room for all that there is to say
	}
	fmt.Println("done")
}

// killedInputs are inputs of which most come several times.
func killedInputs() (ns []int) {
	for i := range 3000 {
		ns = append(ns, 10*i%500+i/500)
	}
	return ns
}

// However often the program is killed: the union of what it hands out is complete, and nothing that was handed out is computed again.
func TestJournalSurvivesKills(t *testing.T) {
	folder := t.TempDir()
	seed := random.Uint64()
	t.Logf("seed %d", seed)
	source := random.New(random.NewPCG(seed, 0))
	wanted, handedOut := map[int]int{}, map[int]int{} // how often, by input
	for _, n := range killedInputs() {
		wanted[n]++
	}
	kills := 0
	for done := false; !done; {
		ranBefore, durable := len(ran(t, folder)), maps.Clone(handedOut)
		program := exec.Command(os.Args[0], "-test.run=^TestProgramWithJournal$")
		program.Env = append(os.Environ(), journalVariable+"="+folder)
		out, err := program.StdoutPipe()
		require.NoError(t, err)
		in, err := program.StdinPipe()
		require.NoError(t, err)
		program.Stderr = os.Stderr
		require.NoError(t, program.Start())
		after := 1 + source.IntN(150) // lines that were new
		lines := bufio.NewScanner(out)
		got := map[int]int{}
		for lines.Scan() {
			var n, index, size int
			var failed bool
			if _, err := fmt.Sscan(strings.TrimPrefix(lines.Text(), "got "), &n, &index, &size, &failed); err != nil {
				done = done || lines.Text() == "done"
				continue
			}
			assert.Equal(t, n%10 == 3 || n%10 == 5, failed)
			got[n]++
			if got[n] > handedOut[n] {
				handedOut[n] = got[n]
				if after--; after == 0 && kills < 20 {
					kills++
					require.NoError(t, program.Process.Kill())
				}
			}
			_, _ = in.Write([]byte{'\n'}) // it may be dead
		}
		_, _ = io.Copy(io.Discard, out)
		_ = program.Wait() // it was killed
		now := map[int]int{}
		for _, n := range ran(t, folder)[ranBefore:] {
			now[n]++
			assert.LessOrEqual(t, now[n], wanted[n]-durable[n], "input %d was computed again", n)
		}
	}
	assert.Equal(t, 20, kills)
	assert.Equal(t, wanted, handedOut)
}

// What ends with the session is no failure of an input, and is not written down as one.
func TestJournalDoesNotKeepTheEnd(t *testing.T) {
	for range 20 {
		folder := t.TempDir()
		path := filepath.Join(folder, "journal")
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(4), sbx.Logger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		i := 0
		for _, err := range session.Function(Double).Map(t.Context(), numbers(1000), sbx.Journal(path)) {
			if i++; i == 10 {
				go session.Close() //nolint:errcheck // it is closed once more below
			}
			if err != nil {
				require.ErrorIs(t, err, sbx.ErrClosed)
				var call *sbx.CallError
				require.ErrorAs(t, err, &call)
				assert.Equal(t, -1, call.Index)
			}
		}
		require.NoError(t, session.Close())
		again := sbxtest.Open(t)
		for _, err := range again.Function(Double).Map(t.Context(), numbers(1000), sbx.Journal(path)) {
			require.NoError(t, err)
		}
	}
}

// Pairs of arguments are inputs as others are, and why a call was not run again is kept.
func TestJournalKeepsWhyACallWasNotRunAgain(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	path := filepath.Join(t.TempDir(), "journal")
	try := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(always), sbx.Backoff(0, 0))
	inputs := func(yield func(string, string) bool) {
		_ = yield("a", "exit") && yield("b", "ok") && yield("c", "fail fail fail fail ok")
	}
	run := func() (errs []error) {
		for _, err := range try.Map(t.Context(), inputs, sbx.Journal(path), sbx.RetryBudget(4), sbx.Ahead(1)) {
			errs = append(errs, err)
		}
		require.Len(t, errs, 3)
		require.ErrorIs(t, errs[0], sbx.ErrPoison)
		require.ErrorIs(t, errs[0], sbx.ErrExited)
		require.NoError(t, errs[1])
		return errs
	}
	errs := run()
	require.ErrorIs(t, errs[2], sbx.ErrRetryBudget)
	require.ErrorIs(t, errs[2], ErrOdd)
	assert.Len(t, callError(t, errs[2]).Attempts, 3)
	assert.EqualValues(t, 7, session.Stats().Sent)
	// What had no budget left is the next run's, which needs none for the others.
	require.NoError(t, run()[2])
	assert.EqualValues(t, 7+5, session.Stats().Sent)
}

// Maps are encoded in another order each time, and are the same input all the same.
func TestJournalFindsInputsWithMaps(t *testing.T) {
	session := sbxtest.Open(t)
	path := filepath.Join(t.TempDir(), "journal")
	jobs := func(yield func(Job) bool) {
		for i := range 20 {
			job := Job{Name: strconv.Itoa(i), Rates: map[int]float64{}, Next: &Job{Rates: map[int]float64{1: 1, 2: 2, 3: 3}}}
			for k := range 10 {
				job.Rates[k*k] = float64(k)
			}
			if !yield(job) {
				return
			}
		}
	}
	for range 3 {
		for _, err := range session.Function(Train).Map(t.Context(), jobs, sbx.Journal(path)) {
			require.NoError(t, err)
		}
	}
	assert.EqualValues(t, 20, session.Stats().Sent)
}

// What a deadline cut short is not what came of an input.
func TestJournalDoesNotKeepWhatTimeCutShort(t *testing.T) {
	session := sbxtest.Open(t)
	path := filepath.Join(t.TempDir(), "journal")
	half := session.Function(Half, sbx.Retries(1), sbx.RetryIf(always), sbx.Backoff(1000*time.Hour, 1000*time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		before := session.Stats().Sent
		for _, err := range half.Map(ctx, numbers(2), sbx.Journal(path), sbx.Ahead(1)) {
			if err != nil {
				require.ErrorContains(t, err, "deadline comes before the next run")
			}
		}
		assert.Positive(t, session.Stats().Sent-before)
	}
	var call *sbx.CallError
	for _, err := range session.Function(Half).Map(t.Context(), numbers(2), sbx.Journal(path)) {
		if err != nil {
			require.ErrorAs(t, err, &call)
			require.NotContains(t, err.Error(), "deadline")
		}
	}
	require.NotNil(t, call)
}

// What is no result of a function, but of want of a sandbox, or of an interceptor, is not what came of an input, also if an earlier run of the call failed.
func TestJournalDoesNotKeepWhatIsNotTheFunctions(t *testing.T) {
	errQuota, errMetrics := errors.New("no quota"), errors.New("no metrics")
	for name, c := range map[string]struct {
		order     string
		start     func(sandbox string) error
		intercept sbx.Interceptor
		want      error
		again     error // of the next run
	}{
		"a start": {order: "fail ok", want: errQuota, start: func(sandbox string) error {
			if strings.HasSuffix(sandbox, "-1") {
				return nil
			}
			return errQuota
		}},
		"an interceptor's error": {order: "ok", want: errMetrics, intercept: func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			return errors.Join(next(ctx), errMetrics)
		}},
		"an interceptor's error instead of the function's": {order: "fail", want: errMetrics, again: ErrOdd, intercept: func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			_ = next(ctx)
			return errMetrics
		}},
		"an interceptor's deadline": {order: "500ms:ok", want: context.DeadlineExceeded, intercept: func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			return next(ctx)
		}},
		"an interceptor's end of the wait": {order: "fail ok", want: context.DeadlineExceeded, intercept: func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(300*time.Millisecond, func() { cancel(context.DeadlineExceeded) })
			return next(ctx)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			run := func(wait time.Duration, opts ...sbx.OpenOption) error {
				session := sbxtest.Open(t, append(opts, sbx.MaxSandboxes(1))...)
				try := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(func(err error) bool { return errors.Is(err, ErrOdd) }), sbx.Backoff(wait, wait), sbx.MaxUses(1))
				for _, err := range try.Map(t.Context(), maps.All(map[string]string{name: c.order}), sbx.Journal(path)) {
					return err
				}
				return errors.New("no result")
			}
			opts := []sbx.OpenOption{sbx.Driver(inprocess.New(&inprocess.Options{Start: c.start}))}
			if c.intercept != nil {
				opts = append(opts, sbx.Intercept(c.intercept))
			}
			wait := time.Duration(0)
			if strings.HasSuffix(name, "wait") {
				wait = 1000 * time.Hour
			}
			require.ErrorIs(t, run(wait, opts...), c.want)
			require.ErrorIs(t, run(0), c.again)
		})
	}
}
