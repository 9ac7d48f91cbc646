package launch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// handlerFunc is a handler that takes every record.
type handlerFunc func(slog.Record)

func (h handlerFunc) Enabled(context.Context, slog.Level) bool { return true }

func (h handlerFunc) Handle(_ context.Context, r slog.Record) error {
	h(r)
	return nil
}

func (h handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h handlerFunc) WithGroup(string) slog.Handler { return h }

// kept are records as text, in the order in which they were handled.
type kept struct {
	mu   sync.Mutex
	text []string
}

func (k *kept) take(r slog.Record) {
	var text strings.Builder
	r.Time = time.Time{}
	_ = slog.NewTextHandler(&text, nil).Handle(context.Background(), r)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.text = append(k.text, strings.TrimSpace(text.String()))
}

func record(text string) *wirepb.Log { return &wirepb.Log{Record: &wirepb.Record{Message: text}} }

func logMessage(log *wirepb.Log) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Log{Log: log}}
}

func outputOf(l *Logs, sandbox string) *output { return &output{source: l.source(sandbox)} }

func TestHostileLogsAreTakenAsFarAsTheyGo(t *testing.T) {
	var got kept
	logs := NewLogs(handlerFunc(got.take), nil)
	frames := sends(frame(2,
		logMessage(nil),
		logMessage(&wirepb.Log{}),
		logMessage(&wirepb.Log{Call: 1, Dropped: math.MaxUint64}),
		logMessage(&wirepb.Log{Call: 99, Record: &wirepb.Record{Message: "of no call\n"}}),
		logMessage(&wirepb.Log{Call: 1, Record: &wirepb.Record{Message: strings.Repeat("x", 1<<20), Attrs: []*wirepb.Attr{
			{Key: "sandbox", Value: &wirepb.Attr_Text{Text: "another"}}, {},
		}}}),
		result(1, 1),
		logMessage(&wirepb.Log{Call: 1, Record: &wirepb.Record{Message: "late"}}),
	))
	w, err := Start(t.Context(), &fake{line: goodLine, script: welcomed(frames)}, Config{Sandbox: "s-1", Logs: logs})
	require.NoError(t, err)
	assert.Equal(t, "v", string(w.Go(&wirepb.Call{Attempt: 1, Name: "c-7"}, nil).Result().GetValue().GetData()))
	assert.Zero(t, w.output.sole(), "the call does not run any more")
	require.Eventually(t, func() bool { // the record after the result is on its way
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.text) == 4
	}, 10*time.Second, time.Millisecond)
	w.Close()
	logs.Close()
	require.Len(t, got.text, 4)
	assert.Equal(t, fmt.Sprintf(`level=WARN msg="sbx: records were dropped here: they came faster than they were taken" sandbox=s-1 dropped=%d`, math.MaxInt32), got.text[0])
	assert.Equal(t, `level=INFO msg="of no call\n" sandbox=s-1`, got.text[1])
	assert.Contains(t, got.text[2], "bytes more")
	assert.True(t, strings.HasSuffix(got.text[2], "sandbox=s-1 function=f call=c-7 sandbox=another \"\"=!BADVALUE"), got.text[2][len(got.text[2])-200:])
	assert.Equal(t, "level=INFO msg=late sandbox=s-1 function=f call=c-7", got.text[3])
}

func TestACallThatIsWithdrawnDoesNotRun(t *testing.T) {
	w, err := start(t, &fake{line: goodLine, script: welcomed(sends())})
	require.NoError(t, err)
	pending := w.Go(&wirepb.Call{Attempt: 1}, make([]byte, 64<<20)) // which nobody reads
	assert.NotZero(t, w.output.sole())
	require.True(t, pending.Withdraw())
	assert.Zero(t, w.output.sole())
}

func TestEveryGapHasItsNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got kept
		logs := NewLogs(handlerFunc(got.take), nil)
		o := outputOf(logs, "a")
		for n := range uint64(3) {
			o.log(&wirepb.Log{Dropped: n})
			synctest.Wait()
		}
		logs.Close()
		require.Len(t, got.text, 2)
		assert.Contains(t, got.text[0], "dropped=1")
		assert.Contains(t, got.text[1], "dropped=2")
	})
}

func TestLinesThatNobodyWantsAreNotQueued(t *testing.T) {
	logs := NewLogs(slog.DiscardHandler, slog.LevelWarn)
	o := outputOf(logs, "a")
	o.line("stdout", "x", true)
	logs.Close()
	assert.Zero(t, logs.progress())
	assert.Equal(t, []string{"x"}, o.last(nil))
}

func TestTheLevelOfHello(t *testing.T) {
	text := func(level slog.Level) slog.Handler {
		return slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: level})
	}
	for _, c := range []struct {
		handler slog.Handler
		level   slog.Leveler
		want    int32
	}{
		{text(0), nil, 0}, {text(-4), nil, -4}, {text(123_456), nil, 123_456}, {text(math.MinInt), nil, math.MinInt32},
		{slog.DiscardHandler, nil, math.MaxInt32}, {text(0), slog.LevelError, 8}, {text(8), slog.LevelDebug, 8},
	} {
		logs := NewLogs(c.handler, c.level)
		assert.Equal(t, c.want, logs.lowest())
		logs.Close()
	}
	var none *Logs
	assert.EqualValues(t, math.MaxInt32, none.lowest())
}

// asked is a handler whose Enabled is the function.
type asked struct {
	slog.Handler
	enabled func(slog.Level) bool
}

func (a asked) Enabled(_ context.Context, level slog.Level) bool { return a.enabled(level) }

func TestAHandlerThatDoesNotSayItsLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		logs := NewLogs(asked{slog.DiscardHandler, func(level slog.Level) bool {
			<-release
			return level >= slog.LevelError
		}}, nil)
		began := time.Now()
		assert.EqualValues(t, slog.LevelInfo, logs.lowest())
		assert.EqualValues(t, slog.LevelInfo, logs.lowest(), "one goroutine asks")
		assert.Equal(t, 2*settleTime, time.Since(began))
		close(release)
		synctest.Wait()
		assert.EqualValues(t, slog.LevelError, logs.lowest())
		logs.Close()
	})
}

func TestAHandlerThatEndsTheGoroutineThatAsks(t *testing.T) {
	logs := NewLogs(asked{slog.DiscardHandler, func(slog.Level) bool { runtime.Goexit(); return true }}, nil)
	assert.EqualValues(t, math.MaxInt32, logs.lowest())
	logs.Close()
}

// TestRecordsThatNobodyTakes floods two sandboxes in turns while the handler blocks.
func TestRecordsThatNobodyTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var got kept
		logs := NewLogs(handlerFunc(func(r slog.Record) {
			<-release
			got.take(r)
		}), nil)
		a, b := outputOf(logs, "a"), outputOf(logs, "b")
		const n = 20_000
		for i := range n {
			a.log(record(fmt.Sprintf("a%d", i)))
			b.log(record(fmt.Sprintf("b%d", i)))
		}
		assert.Less(t, len(logs.waiting), 3*maxWaitingRecords/entrySize)
		close(release)
		synctest.Wait()
		a.log(record("after"))
		logs.Close()
		next, dropped := map[byte]int{}, 0
		for _, text := range got.text[:len(got.text)-1] {
			var sandbox byte
			var i int
			if _, err := fmt.Sscanf(text, "level=INFO msg=%c%d", &sandbox, &i); err == nil {
				require.Equal(t, next[sandbox], i, "in order, and none is missing before the gap")
				next[sandbox]++
				continue
			}
			_, err := fmt.Sscanf(text[strings.Index(text, "sandbox="):], "sandbox=%c dropped=%d", &sandbox, &i)
			require.NoError(t, err, text)
			next[sandbox] += i
			dropped++
		}
		assert.Equal(t, map[byte]int{'a': n, 'b': n}, next)
		assert.Equal(t, 2, dropped, "one note a gap")
		assert.Equal(t, "level=INFO msg=after sandbox=a", got.text[len(got.text)-1])
	})
}

func TestLinesWaitUntilTheProcessEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var got kept
		logs := NewLogs(handlerFunc(func(r slog.Record) {
			<-release
			got.take(r)
		}), nil)
		a, b := outputOf(logs, "a"), outputOf(logs, "b")
		const n = 2 * maxWaitingLines / entrySize
		printed := make(chan struct{})
		go func() {
			defer close(printed)
			for i := range n {
				a.line("stdout", fmt.Sprint(i), true)
			}
		}()
		synctest.Wait()
		waiting := a.last(nil)
		assert.NotEqual(t, fmt.Sprint(n-1), waiting[len(waiting)-1], "it waits")
		b.line("stdout", "b", true)
		b.log(record("b"))
		a.log(record("a"))
		a.source.rush()
		<-printed
		assert.Equal(t, "1047", a.last(nil)[keptLines-1])
		close(release)
		logs.Close()
		assert.Len(t, got.text, n+3, "nothing is lost")
	})
}

func TestCloseWaitsForAHandlerThatGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		each    time.Duration
		handled int
		took    time.Duration
	}{
		"quick": {0, 100, 0},
		"slow":  {10 * time.Millisecond, 100, time.Second},
		// One record is being handled when Close gives up.
		"too slow in all": {100 * time.Millisecond, 51, drainTime},
		"blocked":         {time.Hour, 1, settleTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var handled int
				logs := NewLogs(handlerFunc(func(slog.Record) {
					time.Sleep(c.each)
					handled++
				}), nil)
				o := outputOf(logs, "a")
				for range 100 {
					o.log(record("x"))
				}
				begin := time.Now()
				logs.Close()
				assert.InDelta(t, c.took, time.Since(begin), float64(time.Millisecond))
				o.log(record("too late"))
				o.line("stdout", "too late", true)
				o.source.warn("too late")
				logs.Close()
				<-logs.ended
				assert.InDelta(t, c.handled, handled, 1)
			})
		})
	}
}

func TestAHandlerThatEndsItsGoroutine(t *testing.T) {
	logs := NewLogs(handlerFunc(func(slog.Record) { runtime.Goexit() }), nil)
	o := outputOf(logs, "a")
	for range 3 * maxWaitingLines / entrySize {
		o.line("stdout", "line", true) // and does not wait for ever
	}
	<-logs.ended
	logs.Close()
}

func TestTheCallOfALine(t *testing.T) {
	var got kept
	logs := NewLogs(handlerFunc(got.take), nil)
	o := outputOf(logs, "a")
	line := func() { o.line("stderr", "x", true) }
	line()
	o.began(caller{1, 0, "f", "c-1"})
	line()
	o.began(caller{2, 1, "g", "c-2"})
	line()
	o.returned(1)
	line()
	o.returned(2)
	line()
	for id := uint64(3); id < 3+returnedCallers; id++ {
		o.began(caller{id, 0, "h", fmt.Sprint("c-", id)})
		o.returned(id)
	}
	assert.Zero(t, o.find(2), "long ago")
	assert.Equal(t, caller{3, 0, "h", "c-3"}, o.find(3))
	assert.Zero(t, o.find(0))
	logs.Close()
	const text = "level=INFO msg=x sandbox=a stream=stderr"
	assert.Equal(t, []string{text, text + " function=f call=c-1", text, text + " function=g call=c-2", text}, got.text)
}

func TestLinesAreCutOnce(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for text, want := range map[string][]string{
		"":                              nil,
		"a":                             {"a"},
		"a\n\nb\n":                      {"a", "", "b"},
		long + "\nb":                    {long, "b"},
		long + "\n\nb":                  {long, "", "b"},
		long + "y\nb":                   {long, "y", "b"},
		long + long + "\n":              {long, long},
		"a\n" + long[1:] + "\n" + "b\n": {"a", long[1:], "b"},
	} {
		for _, size := range []int{1 << 20, 32 << 10, 1000, 7} {
			var lines splitter
			var got []string
			each := func(line []byte) { got = append(got, string(line)) }
			for rest := []byte(text); len(rest) > 0; {
				n := min(size, len(rest))
				lines.split(rest[:n], each)
				rest = rest[n:]
			}
			lines.end(each)
			assert.True(t, equal(want, got), "%.20q in pieces of %d: %d lines", text, size, len(got))
		}
	}
}

func equal(a, b []string) bool {
	return strings.Join(a, "|\x00|") == strings.Join(b, "|\x00|") && len(a) == len(b)
}

func TestOneWriterForBothStreamsIsCalledByOneGoroutine(t *testing.T) {
	var one, other bytes.Buffer
	stdout, stderr := newSinks(&Writers{&one, &one})
	assert.Same(t, stdout.turn, stderr.turn)
	stdout, stderr = newSinks(&Writers{&one, &other})
	assert.NotSame(t, stdout.turn, stderr.turn)
	stdout, stderr = newSinks(&Writers{})
	require.NoError(t, stdout.write([]byte("dropped")))
	require.NoError(t, stderr.write([]byte("dropped")))
	stdout, _ = newSinks(&Writers{Stdout: short{}})
	require.ErrorIs(t, stdout.write([]byte("ab")), io.ErrShortWrite)
	require.NoError(t, stdout.write([]byte("ab")), "it is not used again")
	_, _ = newSinks(&Writers{incomparable{}, incomparable{}}) // and does not panic
}

// short is a writer that takes too little.
type short struct{}

func (short) Write([]byte) (int, error) { return 1, nil }

// incomparable is a writer that == panics on.
type incomparable struct{ _ []byte }

func (incomparable) Write(p []byte) (int, error) { return len(p), nil }

func TestWhatEndedSandboxesLeftWaitingIsBounded(t *testing.T) {
	release := make(chan struct{})
	logs := NewLogs(handlerFunc(func(slog.Record) { <-release }), nil)
	for n := range 40 { // each within its own bound, and more than the session's in all
		o := outputOf(logs, fmt.Sprint(n))
		for range 50 {
			o.log(record(strings.Repeat("x", 60<<10)))
		}
		o.source.rush()
	}
	logs.mu.Lock()
	size := logs.size
	logs.mu.Unlock()
	assert.LessOrEqual(t, size, maxWaiting+maxWaitingRecords)
	assert.Greater(t, size, maxWaiting/4)
	close(release)
	logs.Close()
	logs.mu.Lock()
	defer logs.mu.Unlock()
	assert.Zero(t, logs.size)
}
