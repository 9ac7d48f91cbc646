package sbx_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpenRefusesBadOptions(t *testing.T) {
	var option *sbx.OptionError
	for name, bad := range map[string]sbx.OpenOption{
		"maximum": sbx.MaxSandboxes(0), "negative": sbx.MaxSandboxes(-1), "huge": sbx.MaxSandboxes(math.MaxInt), "driver": sbx.Driver(nil), "minimum": sbx.MinSandboxes(0), "starts": sbx.StartsAtOnce(0),
		"logger": sbx.Logger(nil), "lease": sbx.Lease(99 * time.Millisecond), "interceptor": sbx.Intercept(nil),
		"concurrency": sbx.Concurrency(0), "concurrency too high": sbx.Concurrency(1001), "uses": sbx.MaxUses(0), "age": sbx.MaxAge(0), "idle time": sbx.IdleTime(-1),
		"env": sbx.Env("", ""), "nil": nil, "joined": sbx.Join(nil),
		"image": sbx.Image(""), "image with a space": sbx.Image("debian 12"), "long image": sbx.Image(strings.Repeat("x", 1025)),
	} {
		session, err := sbx.Open(t.Context(), bad)
		require.ErrorAs(t, err, &option, name)
		assert.Nil(t, session)
	}
	_, err := sbx.Open(t.Context(), sbx.MaxSandboxes(0), sbx.Driver(nil))
	assert.ErrorContains(t, err, "MaxSandboxes")
	assert.ErrorContains(t, err, "Driver", "all that is wrong is said at once")
	for want, bad := range map[string]sbx.OpenOption{
		`Tags given ""; give text`: sbx.Tags(""), "give it as a file": sbx.Env("A", "\x00"),
	} {
		_, err := sbx.Open(t.Context(), bad)
		assert.ErrorContains(t, err, want)
	}
	_, err = sbx.Open(nil) //nolint:staticcheck // the misuse under test
	require.ErrorAs(t, err, &option)
}

// denied is a driver that can't isolate.
type denied struct{ driver.Driver }

func (denied) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, &driver.UnavailableError{Driver: "denied", Err: errors.New("not allowed"), Remedies: []string{"ask nicely", "go elsewhere"}}
}

func TestOpenFailsWhereTheDriverCantIsolate(t *testing.T) {
	_, err := sbx.Open(t.Context(), sbx.Driver(denied{}))
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	assert.EqualError(t, err, "sbx: open: the denied driver can't isolate here: not allowed; to go on, ask nicely, or go elsewhere")
}

func TestClosedSession(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)))
	require.NoError(t, err)
	double := session.Function(Double)
	_, err = double.Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 1, session.SandboxCount())
	require.NoError(t, session.Close())
	require.NoError(t, session.Close(), "closing twice is safe")
	assert.Zero(t, session.SandboxCount())
	_, err = double.Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrClosed)
	_, err = session.Function(Half).Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrClosed)
	for _, err := range double.Map(t.Context(), numbers(3)) {
		require.ErrorIs(t, err, sbx.ErrClosed)
	}
}

func TestCloseEndsCallsThatRun(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session, err := sbx.Open(t.Context(), on, sbx.MaxSandboxes(2), sbx.Logger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		_, err = session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
		var calls []*sbx.Call[string]
		for range 5 { // two run, the rest wait for a sandbox
			calls = append(calls, session.Function(Wait).Spawn(t.Context(), true))
		}
		var closes sync.WaitGroup
		for range 3 {
			closes.Go(func() { assert.NoError(t, session.Close()) })
		}
		closes.Wait()
		for _, call := range calls {
			_, err := call.Result(t.Context())
			require.ErrorIs(t, err, sbx.ErrClosed)
		}
	})
}

func TestNoSandboxIsMadeBeforeACall(t *testing.T) {
	session := sbxtest.Open(t)
	remote := session.Function(Double)
	require.NoError(t, remote.Err())
	assert.Zero(t, session.SandboxCount())
}

func TestMaxSandboxesBoundsCalls(t *testing.T) {
	var running, most atomic.Int32
	session := sbxtest.Open(t, sbx.MaxSandboxes(3), sbx.Driver(inprocess.New(&inprocess.Options{
		Start: func(string) error {
			most.Store(max(most.Load(), running.Add(1)))
			return nil
		},
	})))
	outputs, err := session.Function(Double).MapSlice(t.Context(), make([]int, 100), sbx.Ahead(50))
	require.NoError(t, err)
	assert.Len(t, outputs, 100)
	assert.LessOrEqual(t, most.Load(), int32(3))
	assert.LessOrEqual(t, session.SandboxCount(), 3)
}

func TestStartFailure(t *testing.T) {
	broken := errors.New("no disk")
	var fail atomic.Bool
	fail.Store(true)
	session := sbxtest.Open(t, sbx.Driver(inprocess.New(&inprocess.Options{
		Start: func(string) error {
			if fail.Load() {
				return broken
			}
			return nil
		},
	})))
	_, err := session.Function(Double).Call(t.Context(), 1)
	var start *sbx.StartError
	require.ErrorAs(t, err, &start)
	require.ErrorIs(t, err, broken)
	assert.Zero(t, session.SandboxCount())
	fail.Store(false)
	n, err := session.Function(Double).Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
}

// evicted is what a driver says of a sandbox that somebody else ended.
type evicted bool

func (e evicted) Error() string { return "its node is to be empty" }

func (e evicted) EndedByOthers() bool { return bool(e) }

func TestAStartThatOthersEndIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		ended     evicted
		failures  int
		tries     int
		succeeded bool
	}{
		{true, 2, 3, true},
		{true, 9, 3, false},
		{false, 1, 1, false},
	} {
		var mu sync.Mutex
		var ids []string
		session := sbxtest.Open(t, sbx.Driver(inprocess.New(&inprocess.Options{
			Start: func(id string) error {
				mu.Lock()
				defer mu.Unlock()
				if ids = append(ids, id); len(ids) <= c.failures {
					return c.ended
				}
				return nil
			},
		})))
		check := func(err error, name string) {
			mu.Lock()
			defer mu.Unlock()
			assert.Len(t, ids, c.tries, name)
			if c.succeeded {
				require.NoError(t, err, name)
			} else {
				var start *sbx.StartError
				require.ErrorAs(t, err, &start, name)
				require.ErrorIs(t, err, c.ended, name)
			}
		}
		_, err := session.Function(Double).Call(t.Context(), 1)
		check(err, "a call")
		assert.Len(t, slices.Compact(ids), len(ids), "each is another sandbox")
		ids = nil
		check(session.Sandbox().Start(t.Context()), "a sandbox of the program's own")
		require.NoError(t, session.Close())
	}
}

// cutter is a connection that can be cut.
type cutter struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutter) Write(p []byte) (int, error) {
	if c.cut.Load() {
		_ = c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func TestACutConnectionLosesTheSandboxAndNoMore(t *testing.T) {
	var cut atomic.Bool
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Driver(inprocess.New(&inprocess.Options{
		Conn: func(conn net.Conn) net.Conn { return cutter{conn, &cut} },
	})))
	double := session.Function(Double)
	_, err := double.Call(t.Context(), 1)
	require.NoError(t, err)
	cut.Store(true)
	_, err = double.Call(t.Context(), 1)
	require.Error(t, err)
	cut.Store(false)
	n, err := double.Call(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, 8, n)
}

func TestGarbageFromAWorkerIsALostSandbox(t *testing.T) {
	var bad atomic.Bool
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Driver(inprocess.New(&inprocess.Options{
		Conn: func(conn net.Conn) net.Conn { return garbler{conn, &bad} },
	})))
	wait := session.Function(Wait).Spawn(t.Context(), false)
	bad.Store(true)
	wait.Cancel()
	_, err := wait.Result(t.Context())
	require.Error(t, err)
	bad.Store(false)
	n, err := session.Function(Double).Call(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, 8, n)
}

// garbler turns what it reads into something else.
type garbler struct {
	net.Conn
	bad *atomic.Bool
}

func (g garbler) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if g.bad.Load() {
		for i := range p[:n] {
			p[i] ^= 0x5a
		}
	}
	return n, err
}

func TestSessionsShareADriver(t *testing.T) {
	d := process.New()
	one, two := sbxtest.Open(t, sbx.Driver(d)), sbxtest.Open(t, sbx.Driver(d))
	_, err := one.Function(Double).Call(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, one.Close())
	n, err := two.Function(Double).Call(t.Context(), 2)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
}

func TestManyCallsAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(4))
		double := session.Function(Double)
		var calls sync.WaitGroup
		for i := range 500 {
			calls.Go(func() {
				n, err := double.Call(t.Context(), i)
				assert.NoError(t, err)
				assert.Equal(t, 2*i, n)
			})
		}
		calls.Wait()
		assert.LessOrEqual(t, session.SandboxCount(), 4)
	})
}

func TestString(t *testing.T) {
	session := sbxtest.Open(t)
	assert.Contains(t, session.String(), "(open, sandboxes: 0)")
	require.NoError(t, session.Close())
	assert.Contains(t, session.String(), "(closed, sandboxes: 0)")
}

func TestCloseBoundsItsTime(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.Logger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	call := session.Function(Wait).Spawn(t.Context(), true)
	require.Eventually(t, func() bool { return session.SandboxCount() == 1 }, 10*time.Second, time.Millisecond)
	begin := time.Now()
	require.NoError(t, session.Close())
	assert.Less(t, time.Since(begin), 10*time.Second)
	<-call.Done()
}

// slowClose is a driver whose sessions take a time to close, at the first try.
type slowClose struct {
	driver.Driver
	takes time.Duration
}

type slowCloseSession struct {
	driver.Session
	takes time.Duration
}

func (d slowClose) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := d.Driver.Open(ctx, spec)
	return &slowCloseSession{session, d.takes}, err
}

func (s *slowCloseSession) Close(ctx context.Context) error {
	takes := s.takes
	s.takes = 0
	select {
	case <-time.After(takes):
		return s.Session.Close(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestCloseGivesTheDriverTimeForEachSandbox(t *testing.T) {
	for sandboxes, want := range map[int]error{0: context.DeadlineExceeded, 10: nil} {
		synctest.Test(t, func(t *testing.T) {
			d := slowClose{inprocess.New(nil), 12 * time.Second}
			session, err := sbx.Open(t.Context(), sbx.Driver(d), sbx.MaxSandboxes(10), sbx.Logger(slog.New(slog.DiscardHandler)))
			require.NoError(t, err)
			if sandboxes > 0 {
				require.NoError(t, session.Prewarm(t.Context(), sandboxes))
			}
			require.ErrorIs(t, session.Close(), want)
			require.NoError(t, session.Close())
		})
	}
}

// blocked is a handler that takes records until it is let.
type blocked struct {
	slog.Handler
	entered chan struct{}
	release chan struct{}
}

func (b blocked) Handle(context.Context, slog.Record) error {
	select {
	case b.entered <- struct{}{}:
	default:
	}
	<-b.release
	return nil
}

func TestALogHandlerThatBlocksDoesNotBlockClose(t *testing.T) {
	handler := blocked{slog.DiscardHandler, make(chan struct{}, 1), make(chan struct{})}
	enabled := slog.New(enabledHandler{handler})
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.Logger(enabled))
	require.NoError(t, err)
	defer close(handler.release)
	// The session's own warning is logged by Open in the caller's goroutine, so it is not given to this handler.
	require.NoError(t, session.Action(Print).Call(t.Context(), "one line"))
	<-handler.entered
	require.NoError(t, session.Close())
}

// enabledHandler hands on what functions print, which has a stream, and drops the rest.
type enabledHandler struct{ blocked }

func (h enabledHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h enabledHandler) Handle(ctx context.Context, r slog.Record) error {
	stream := false
	r.Attrs(func(a slog.Attr) bool {
		stream = stream || a.Key == "stream"
		return true
	})
	if !stream {
		return nil
	}
	return h.blocked.Handle(ctx, r)
}

func TestOpenWithAContextThatHasEnded(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("over")
		cancel(cause)
		_, err := sbx.Open(ctx, on)
		require.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, cause)
	})
}
