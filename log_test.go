package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorder is a handler that keeps records. If hold is not nil, it waits there first.
type recorder struct {
	level slog.Level
	hold  *hold
	seen  chan slog.Record // if not nil, gets what fits

	mu      sync.Mutex
	records []slog.Record
}

func (r *recorder) Enabled(_ context.Context, level slog.Level) bool { return level >= r.level }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	if r.hold != nil {
		r.hold.wait()
	}
	select {
	case r.seen <- record:
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
	return nil
}

func (r *recorder) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r *recorder) WithGroup(string) slog.Handler { return r }

// hold is where somebody waits until it is released.
type hold struct{ entered, release chan struct{} }

func newHold() *hold { return &hold{make(chan struct{}, 1), make(chan struct{})} }

func (h *hold) wait() {
	select {
	case h.entered <- struct{}{}:
	default:
	}
	<-h.release
}

// Write makes it a writer.
func (h *hold) Write(p []byte) (int, error) {
	h.wait()
	return len(p), nil
}

// of returns the records with a message.
func (r *recorder) of(message string) (found []slog.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range r.records {
		if record.Message == message {
			found = append(found, record)
		}
	}
	return found
}

// await waits for a record with a message.
func (r *recorder) await(t *testing.T, message string) slog.Record {
	t.Helper()
	for timeout := time.After(10 * time.Second); ; {
		select {
		case record := <-r.seen:
			if record.Message == message {
				return record
			}
		case <-timeout:
			require.Failf(t, "no record", "with the message %q", message)
		}
	}
}

// dropped adds up what the notes of dropped records say.
func (r *recorder) dropped() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range r.records {
		if strings.HasPrefix(record.Message, "sbx: records were dropped") {
			n += int(attrs(record)["dropped"].Uint64())
		}
	}
	return n
}

func attrs(record slog.Record) map[string]slog.Value {
	values := map[string]slog.Value{}
	record.Attrs(func(attr slog.Attr) bool {
		values[attr.Key] = attr.Value
		return true
	})
	return values
}

func group(value slog.Value) map[string]slog.Value {
	var record slog.Record
	record.AddAttrs(value.Group()...)
	return attrs(record)
}

func TestLogKeepsTimeLevelAndTypes(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		handler := &recorder{}
		session := sbxtest.Open(t, on, sbx.Logger(slog.New(handler)))
		before := time.Now()
		call := session.Function(LogKinds).Spawn(t.Context(), "all kinds")
		asked, err := call.Result(t.Context())
		require.NoError(t, err)
		assert.True(t, asked)
		require.NoError(t, session.Close())

		records := handler.of("all kinds")
		require.Len(t, records, 1)
		record := records[0]
		assert.Equal(t, slog.LevelWarn, record.Level)
		assert.WithinRange(t, record.Time, before.Add(-time.Second), time.Now().Add(time.Second))
		top := attrs(record)
		assert.Regexp(t, `^s-\w+-1$`, top["sandbox"].String())
		assert.Equal(t, "github.com/sandboxfn/sbx_test.LogKinds", top["function"].String())
		assert.Equal(t, call.ID(), top["call"].String())
		assert.Equal(t, slog.Int64Value(7), top["run"])
		outer := group(top["outer"])
		assert.Equal(t, slog.BoolValue(true), outer["with"])
		inner := group(outer["inner"])
		at := inner["time"]
		delete(inner, "time")
		assert.Equal(t, map[string]slog.Value{
			"text": slog.StringValue("a\nb"), "int": slog.Int64Value(-1), "uint": slog.Uint64Value(1 << 63), "float": slog.Float64Value(0.5),
			"bool": slog.BoolValue(true), "duration": slog.DurationValue(time.Minute), "any": slog.StringValue("{X:1 Y:2}"),
			"error": slog.StringValue("odd"), "lazy": slog.StringValue("asked"), "group": slog.GroupValue(slog.Int("in", 1)),
			"nil": slog.StringValue("<nil>"), "bytes": slog.StringValue("b\uFFFD"),
		}, inner)
		require.Equal(t, slog.KindTime, at.Kind())
		assert.True(t, logTime.Equal(at.Time()))
		assert.Equal(t, logTime.Format(time.RFC3339Nano), at.Time().Format(time.RFC3339Nano), "with its zone")

		records = handler.of("no attributes")
		require.Len(t, records, 1)
		assert.Equal(t, slog.GroupValue(slog.Bool("with", true)), attrs(records[0])["outer"], "groups that are empty are left out")
	})
}

func TestLogOutsideOfACall(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	handler := &recorder{}
	slog.SetDefault(slog.New(handler))
	assert.Same(t, slog.Default(), sbx.Log(t.Context()))
	_, err := sbxtest.Open(t).Function(LogKinds).Local(t.Context(), "local")
	require.NoError(t, err)
	assert.Len(t, handler.of("local"), 1)
}

// TestRecordsComeInOrderAndBeforeTheResult holds the order by a queue that is deep enough for all of them.
func TestRecordsComeInOrderAndBeforeTheResult(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		handler := &recorder{}
		session := sbxtest.Open(t, on, sbx.Logger(slog.New(handler)), sbx.MaxSandboxes(1))
		for range 3 {
			_, err := session.Function2(LogMany).Call(t.Context(), 1, 200)
			require.NoError(t, err)
		}
		require.NoError(t, session.Close())
		records := handler.of("many")
		require.Len(t, records, 600)
		for i, record := range records {
			require.EqualValues(t, i%200, attrs(record)["i"].Int64())
		}
		assert.Zero(t, handler.dropped())
	})
}

func TestRecordsAfterTheFunctionReturned(t *testing.T) {
	handler := &recorder{seen: make(chan slog.Record, 100)}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Logger(slog.New(handler)))
	path := filepath.Join(t.TempDir(), "now")
	call := session.Function(Outlast).Spawn(t.Context(), path)
	_, err := call.Result(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	assert.Equal(t, call.ID(), attrs(handler.await(t, "late"))["call"].String())
}

func TestLevels(t *testing.T) {
	all := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	text := func(level slog.Leveler) sbx.OpenOption {
		return sbx.Logger(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: level})))
	}
	for name, c := range map[string]struct {
		options []sbx.OpenOption
		want    []slog.Level
	}{
		"the handler's":      {[]sbx.OpenOption{text(slog.LevelWarn)}, all[2:]},
		"all":                {[]sbx.OpenOption{text(slog.Level(-100))}, all},
		"off":                {[]sbx.OpenOption{sbx.Logger(slog.New(slog.DiscardHandler))}, nil},
		"the option's":       {[]sbx.OpenOption{text(slog.LevelDebug), sbx.LogLevel(slog.LevelError)}, all[3:]},
		"the higher of both": {[]sbx.OpenOption{text(slog.LevelWarn), sbx.LogLevel(slog.LevelDebug)}, all[2:]},
	} {
		t.Run(name, func(t *testing.T) {
			enabled, err := sbxtest.Open(t, c.options...).Function(LogLevels).Call(t.Context(), all)
			require.NoError(t, err)
			assert.Equal(t, c.want, enabled)
		})
	}

	t.Run("that rise", func(t *testing.T) {
		var level slog.LevelVar
		handler := &recorder{level: slog.LevelDebug}
		session := sbxtest.Open(t, sbx.Logger(slog.New(handler)), sbx.LogLevel(&level), sbx.MaxSandboxes(1))
		_, err := session.Function(LogLevels).Call(t.Context(), nil)
		require.NoError(t, err)
		level.Set(slog.LevelError)
		enabled, err := session.Function(LogLevels).Call(t.Context(), all)
		require.NoError(t, err)
		assert.Equal(t, all[1:], enabled, "the sandbox does not know yet")
		require.NoError(t, session.Close())
		records := handler.of("enabled")
		require.Len(t, records, 1)
		assert.Equal(t, slog.LevelError, records[0].Level)
	})

	t.Run("of what is printed", func(t *testing.T) {
		for level, want := range map[slog.Level]int{slog.LevelInfo: 2, slog.LevelWarn: 0} {
			handler := &recorder{level: slog.LevelDebug}
			session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Logger(slog.New(handler)), sbx.LogLevel(level))
			require.NoError(t, session.Action(Print).Call(t.Context(), "printed"))
			require.NoError(t, session.Close())
			assert.Len(t, handler.of("printed"), want)
		}
	})
}

func TestPrintedLinesHaveTheCallWhileItRuns(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		handler := &recorder{seen: make(chan slog.Record, 100)}
		session := sbxtest.Open(t, on, sbx.Logger(slog.New(handler)), sbx.MaxSandboxes(1))
		call := session.Function(PrintAndWait).Spawn(t.Context(), "printed")
		got := attrs(handler.await(t, "printed"))
		assert.Equal(t, "stdout", got["stream"].String())
		assert.Equal(t, "github.com/sandboxfn/sbx_test.PrintAndWait", got["function"].String())
		assert.Equal(t, call.ID(), got["call"].String())
		assert.Contains(t, got, "sandbox")
		call.Cancel()
		_, err := call.Result(t.Context())
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestLostSandboxesTellWhatWasLogged(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Logger(slog.New(&recorder{})), sbx.MaxSandboxes(1))
		// The result proves that the record is there.
		require.NoError(t, session.Action(Greet).Call(t.Context(), "Ada\n"+strings.Repeat("x", 10_000)))
		_, err := session.Function(Exit).Call(t.Context(), 3)
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		require.Len(t, lost.LastLines, 3)
		assert.True(t, strings.HasPrefix(lost.LastLines[0], `level=INFO msg=greeting name="Ada\nxxx`), lost.LastLines[0])
		assert.Less(t, len(lost.LastLines[0]), 1100)
		assert.ElementsMatch(t, []string{"going", "gone"}, lost.LastLines[1:])
	})
}

// TestAFloodOfRecords logs from a thousand goroutines while the handler blocks: nothing waits, and what does not fit is
// dropped and counted.
func TestAFloodOfRecords(t *testing.T) {
	for name, on := range map[string]sbx.OpenOption{"inprocess": sbx.Driver(inprocess.New(nil)), "process": sbx.Driver(quiet{process.New()})} {
		t.Run(name, func(t *testing.T) {
			handler := &recorder{hold: newHold()}
			session := sbxtest.Open(t, on, sbx.Logger(slog.New(handler)), sbx.MaxSandboxes(2))
			before := heap()
			sent, err := session.Function2(LogMany).Call(t.Context(), 1000, 50)
			require.NoError(t, err)
			n, err := session.Function(Double).Call(t.Context(), 2)
			require.NoError(t, err)
			assert.Equal(t, 4, n)
			assert.Less(t, int(heap())-int(before), 16<<20)
			close(handler.hold.release)
			require.NoError(t, session.Close())
			kept := len(handler.of("many"))
			assert.Positive(t, handler.dropped())
			assert.Equal(t, sent, kept+handler.dropped())
		})
	}
}

// gate is a connection whose Read waits while it is shut.
type gate struct {
	net.Conn
	mu *sync.RWMutex
}

func (g gate) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.mu.RLock()
	defer g.mu.RUnlock()
	return n, err
}

// TestLoggingDoesNotWaitForTheStream logs while the session reads nothing. What the worker drops is known with the result.
func TestLoggingDoesNotWaitForTheStream(t *testing.T) {
	var shut sync.RWMutex
	handler := &recorder{}
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Logger(slog.New(handler)), sbx.Driver(inprocess.New(&inprocess.Options{
		Conn: func(conn net.Conn) net.Conn { return gate{conn, &shut} },
	})))
	_, err := session.Function(Double).Call(t.Context(), 1)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "logged")
	shut.Lock()
	call := session.Function2(LogAndMark).Spawn(t.Context(), path, 5000)
	require.Eventually(t, exists(path), 10*time.Second, time.Millisecond)
	require.Empty(t, handler.of("many"))
	shut.Unlock()
	sent, err := call.Result(t.Context())
	require.NoError(t, err)
	require.NoError(t, session.Close())
	assert.Positive(t, handler.dropped())
	assert.Equal(t, sent, len(handler.of("many"))+handler.dropped())
}

// heap is what lives.
func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// counter counts what is written to it, and how much at most lived meanwhile.
type counter struct{ bytes, writes, most atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes.Add(int64(len(p)))
	if c.writes.Add(1)%500 == 1 {
		c.most.Store(max(c.most.Load(), int64(heap())))
	}
	return len(p), nil
}

func TestAHundredMegabytesOfOutput(t *testing.T) {
	const size = 100_000_000
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		var out counter
		session := sbxtest.Open(t, on, sbx.Output(func(string) (stdout, stderr io.Writer) { return &out, nil }))
		_, err := session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
		before := int64(heap())
		n, err := session.Function(Gush).Call(t.Context(), size)
		require.NoError(t, err)
		assert.Equal(t, size, n)
		require.NoError(t, session.Close())
		assert.EqualValues(t, size, out.bytes.Load(), "all of it arrives")
		assert.Less(t, out.most.Load()-before, int64(16<<20))
	})
}

// TestOutputThatNobodyTakes prints without end into a handler, or a writer, that blocks. The function waits, and nothing else does.
func TestOutputThatNobodyTakes(t *testing.T) {
	for name, blocks := range map[string]func(h *hold) sbx.OpenOption{
		"a handler": func(h *hold) sbx.OpenOption { return sbx.Logger(slog.New(&recorder{hold: h})) },
		"a writer": func(h *hold) sbx.OpenOption {
			return sbx.Output(func(string) (stdout, stderr io.Writer) { return h, nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHold()
			// The driver's warning would be what the handler has.
			logger := sbx.Logger(slog.New(slog.DiscardHandler))
			session := sbxtest.Open(t, sbx.Driver(quiet{process.New()}), sbx.MaxSandboxes(2), logger, blocks(h))
			before := heap()
			ctx, cancel := context.WithCancel(t.Context())
			gush := session.Function(Gush).Spawn(ctx, 100_000_000)
			<-h.entered
			for i := range 100 {
				n, err := session.Function(Double).Call(t.Context(), i)
				require.NoError(t, err)
				assert.Equal(t, 2*i, n)
			}
			require.Empty(t, gush.Done(), "it waits")
			assert.Less(t, int(heap())-int(before), 16<<20)
			cancel()
			_, err := gush.Result(t.Context())
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, session.Close())
			close(h.release)
		})
	}
}

// quiet keeps the driver's own messages from the logger.
type quiet struct{ driver.Driver }

func (q quiet) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	spec.Logger = slog.New(slog.DiscardHandler)
	return q.Driver.Open(ctx, spec)
}

func TestOutputGoesToWriters(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		handler := &recorder{}
		var mu sync.Mutex
		both := map[string]*bytes.Buffer{}
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1), sbx.Logger(slog.New(handler)), sbx.Output(func(sandbox string) (stdout, stderr io.Writer) {
			mu.Lock()
			defer mu.Unlock()
			both[sandbox] = &bytes.Buffer{}
			return both[sandbox], both[sandbox]
		}))
		require.NoError(t, session.Action(Print).Call(t.Context(), "printed"))
		_, err := session.Function2(LogMany).Call(t.Context(), 1, 1)
		require.NoError(t, err)
		_, err = session.Function(Exit).Call(t.Context(), 1)
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		assert.Contains(t, lost.LastLines, "gone")
		require.NoError(t, session.Close())
		require.Len(t, both, 1)
		for sandbox, printed := range both {
			assert.Equal(t, 2, strings.Count(printed.String(), "printed\n"))
			assert.Contains(t, printed.String(), "gone\n")
			require.Len(t, handler.of("many"), 1, "records go to the logger")
			assert.Equal(t, sandbox, attrs(handler.of("many")[0])["sandbox"].String())
		}
		assert.Empty(t, handler.of("printed"))
	})
}

// failing is a writer that fails.
type failing struct{ writes atomic.Int32 }

var errFull = errors.New("disk full")

func (f *failing) Write([]byte) (int, error) {
	f.writes.Add(1)
	return 0, errFull
}

func TestAWriterThatFailsIsNotUsedAgain(t *testing.T) {
	handler := &recorder{}
	var out failing
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Logger(slog.New(handler)), sbx.Output(func(string) (stdout, stderr io.Writer) { return &out, nil }))
	n, err := session.Function(Gush).Call(t.Context(), 1_000_000)
	require.NoError(t, err)
	assert.Equal(t, 1_000_000, n)
	require.NoError(t, session.Close())
	assert.EqualValues(t, 1, out.writes.Load())
	failed := handler.of("sbx: a writer of sbx.Output failed; what else is printed is dropped")
	require.Len(t, failed, 1)
	assert.Equal(t, "stdout", attrs(failed[0])["stream"].String())
	assert.Equal(t, errFull, attrs(failed[0])["error"].Any())
}

// quitting is a writer that ends the goroutine, as one does that calls FailNow of a test.
type quitting struct{ writes atomic.Int32 }

func (q *quitting) Write([]byte) (int, error) {
	q.writes.Add(1)
	runtime.Goexit()
	return 0, nil
}

func TestAWriterThatEndsItsGoroutineKillsNobody(t *testing.T) {
	var out quitting
	handler := &recorder{}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Logger(slog.New(handler)), sbx.Output(func(string) (stdout, stderr io.Writer) { return &out, nil }))
	n, err := session.Function(Gush).Call(t.Context(), 1_000_000)
	require.NoError(t, err)
	assert.Equal(t, 1_000_000, n)
	require.NoError(t, session.Close())
	assert.EqualValues(t, 1, out.writes.Load())
	failed := handler.of("sbx: a writer of sbx.Output failed; what else is printed is dropped")
	require.Len(t, failed, 1)
	assert.Equal(t, "stdout", attrs(failed[0])["stream"].String())
}

func TestBadLogOptions(t *testing.T) {
	var option *sbx.OptionError
	for _, bad := range []sbx.OpenOption{sbx.LogLevel(nil), sbx.Output(nil)} {
		_, err := sbx.Open(t.Context(), bad)
		require.ErrorAs(t, err, &option)
	}
}

// TestEnvironmentsAreNeverTold runs everything that makes errors and records, and looks for a value of the environment.
func TestEnvironmentsAreNeverTold(t *testing.T) {
	const secret = "hunter2"
	var told []string
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		var log buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		env := sbx.Env("TOKEN", secret)
		session := sbxtest.Open(t, on, sbx.Logger(logger), env)
		tell := func(what any) { told = append(told, fmt.Sprintf("%v %+v %#v %s %q", what, what, what, what, what)) }

		leak := session.Function(Leak)
		for _, how := range []string{"", "error", "panic", "exit", "crash"} {
			_, err := leak.Call(t.Context(), how)
			tell(err)
		}
		for _, env := range []sbx.FunctionOption{
			sbx.Env("INIT", "panics"), sbx.Env("INIT", "prints"), sbx.Env("GODEBUG", secret), sbx.Env("TOKEN="+secret, ""), sbx.Env("SBX_X", secret),
			sbx.Env("TOKEN", secret+"\x00"), sbx.Tags("", secret),
		} {
			remote := session.Function(Leak, env)
			tell(remote.Err())
			_, err := remote.Call(t.Context(), "")
			tell(err)
			tell(remote)
		}
		_, err := session.Function(Wait, sbx.Timeout(time.Millisecond)).Call(t.Context(), true)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		tell(err)
		tell(session)
		tell(env)
		_, err = sbx.Open(t.Context(), sbx.Env(secret+"=", ""), sbx.MaxSandboxes(0))
		require.Error(t, err)
		require.NoError(t, session.Close())
		_, err = leak.Call(t.Context(), "")
		tell(err)
		told = append(told, log.String())
	})
	// What can't have an environment at all.
	session := sbxtest.Open(t, sbx.Env("TOKEN", secret))
	_, err := session.Function(Leak).Call(t.Context(), "")
	require.Error(t, err)
	told = append(told, err.Error())
	for _, text := range told {
		assert.NotContains(t, text, secret)
	}
	assert.True(t, slices.ContainsFunc(told, func(text string) bool { return strings.Contains(text, "on purpose") }), "the check sees what is told")
}
