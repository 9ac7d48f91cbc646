package sbx_test

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watched is a driver whose sandboxes are counted, and whose steps a test can hold up or have fail.
type watched struct {
	driver.Driver
	create         func(id string) error // nil to go on
	stop           func(ctx context.Context, id string) error
	created, ended atomic.Int32
}

type watchedSession struct {
	driver.Session
	watched *watched
}

type watchedSandbox struct {
	driver.Sandbox
	watched *watched
	id      string
	ended   atomic.Bool
}

func watch(create func(string) error, stop func(context.Context, string) error) *watched {
	return &watched{Driver: inprocess.New(nil), create: create, stop: stop}
}

// stopsFrom has stops wait for a channel to be closed.
func stopsFrom(closed <-chan struct{}) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		select {
		case <-closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *watched) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := w.Driver.Open(ctx, spec)
	return &watchedSession{session, w}, err
}

func (s *watchedSession) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	if s.watched.create != nil {
		if err := s.watched.create(spec.ID); err != nil {
			return nil, err
		}
	}
	sb, err := s.Session.Create(context.WithoutCancel(ctx), spec)
	s.watched.created.Add(1)
	return &watchedSandbox{Sandbox: sb, watched: s.watched, id: spec.ID}, err
}

func (sb *watchedSandbox) Stop(ctx context.Context) error {
	if sb.watched.stop != nil {
		if err := sb.watched.stop(ctx, sb.id); err != nil {
			return err
		}
	}
	if err := sb.Sandbox.Stop(ctx); err != nil {
		return err
	}
	if !sb.ended.Swap(true) {
		sb.watched.ended.Add(1)
	}
	return nil
}

// Acceptance 1, 51, 60: what was never started does nothing, and needs no driver.
func TestAnUnstartedSandboxIsNothingYet(t *testing.T) {
	d := watch(func(string) error { return errors.New("created") }, nil)
	session := sbxtest.Open(t, sbx.Driver(d))
	sb := session.Sandbox()
	assert.Equal(t, 1, session.SandboxCount())
	assert.Empty(t, sb.ID())
	assert.Equal(t, "sandbox (unstarted)", sb.String())
	require.NoError(t, sb.Stop(t.Context()))
	require.NoError(t, sb.Close())
	require.NoError(t, sb.Wait(t.Context()))
	assert.Equal(t, sbx.Stopped, sb.Status())
	assert.Zero(t, session.SandboxCount())
	require.ErrorIs(t, sb.Start(t.Context()), sbx.ErrNotRunning)
}

// What keeps a stop until the end of its time is the driver's to say.
func TestCloseOfASandboxSaysWhatKeptIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := errors.New("the engine does not answer")
		tries := 0
		session, err := sbx.Open(t.Context(), sbx.Lease(1000*time.Hour), sbx.Driver(watch(nil, func(ctx context.Context, _ string) error {
			if tries++; tries > 1 {
				return nil
			}
			<-ctx.Done()
			return kept
		})))
		require.NoError(t, err)
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		require.ErrorIs(t, sb.Close(), kept)
		require.NoError(t, session.Close())
	})
}

// Acceptance 2, 19.
func TestNothingOfAClosedSessionWorks(t *testing.T) {
	session := sbxtest.Open(t)
	before := session.Sandbox()
	require.NoError(t, session.Close())
	after := session.Sandbox()
	require.ErrorIs(t, after.Start(t.Context()), sbx.ErrClosed)
	require.ErrorContains(t, after.Start(t.Context()), "closed")
	require.ErrorIs(t, after.Wait(t.Context()), sbx.ErrClosed)
	require.NoError(t, after.Stop(t.Context()))
	require.ErrorIs(t, before.Start(t.Context()), sbx.ErrNotRunning)
	require.ErrorIs(t, before.Start(t.Context()), sbx.ErrClosed)
	_, err := session.Function(Double).In(after).Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrClosed)
	_, err = session.List(t.Context())
	require.ErrorIs(t, err, sbx.ErrClosed)
	_, err = session.FromID(t.Context(), "no-such-sandbox")
	require.ErrorIs(t, err, sbx.ErrClosed)

	other := sbxtest.Open(t)
	sb := other.Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	require.ErrorIs(t, session.Adopt(sb), sbx.ErrClosed)
	assert.Zero(t, session.SandboxCount())
}

// Acceptance 7, 8.
func TestCloseStopsWhatWasMadeAndAdopted(t *testing.T) {
	d := watch(nil, nil)
	first, second := sbxtest.Open(t, sbx.Driver(d)), sbxtest.Open(t, sbx.Driver(d))
	adopted, made, byHand, unstarted := first.Sandbox(), second.Sandbox(), second.Sandbox(), second.Sandbox()
	for _, sb := range []*sbx.Sandbox{adopted, made, byHand} {
		require.NoError(t, sb.Start(t.Context()))
	}
	require.NoError(t, second.Adopt(adopted))
	require.NoError(t, second.Adopt(adopted), "again")
	assert.Equal(t, 4, second.SandboxCount())
	require.NoError(t, byHand.Stop(t.Context()))
	assert.Equal(t, 3, second.SandboxCount())
	require.NoError(t, second.Close())
	for _, sb := range []*sbx.Sandbox{adopted, made, byHand, unstarted} {
		assert.Equal(t, sbx.Stopped, sb.Status())
	}
	assert.Zero(t, second.SandboxCount())
	assert.Zero(t, first.SandboxCount())
	assert.EqualValues(t, 3, d.created.Load())
	assert.EqualValues(t, 3, d.ended.Load())
}

// Acceptance 9, 22, 23, 60: a stop that fails keeps no other from being stopped, is reported with its sandbox, and can be tried again.
func TestStopsThatFail(t *testing.T) {
	stuck := errors.New("the disk is busy")
	var fail sync.Map
	d := watch(nil, func(_ context.Context, id string) error {
		if _, found := fail.Load(id); found {
			return stuck
		}
		return nil
	})
	session := sbxtest.Open(t, sbx.Driver(d))
	var sandboxes []*sbx.Sandbox
	for range 4 {
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		sandboxes = append(sandboxes, sb)
	}
	fail.Store(sandboxes[0].ID(), true)
	fail.Store(sandboxes[2].ID(), true)
	err := sandboxes[0].Stop(t.Context())
	require.ErrorIs(t, err, stuck)
	assert.ErrorContains(t, err, sandboxes[0].ID())
	assert.Equal(t, sbx.Stopping, sandboxes[0].Status())
	require.ErrorIs(t, sandboxes[0].Start(t.Context()), sbx.ErrNotRunning)
	found, err := session.List(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, found, sandboxes[0], "what is being stopped does not run")

	err = session.Close()
	require.ErrorIs(t, err, stuck)
	for i, sb := range sandboxes {
		if i%2 == 0 {
			assert.ErrorContains(t, err, sb.ID())
			assert.Equal(t, sbx.Stopping, sb.Status())
		} else {
			assert.NotContains(t, err.Error(), sb.ID())
			assert.Equal(t, sbx.Stopped, sb.Status())
		}
	}
	assert.Equal(t, 2, session.SandboxCount(), "what is left")
	fail.Clear()
	require.NoError(t, session.Close(), "again")
	for _, sb := range sandboxes {
		assert.Equal(t, sbx.Stopped, sb.Status())
		require.NoError(t, sb.Wait(t.Context()))
	}
	assert.Zero(t, session.SandboxCount())
	assert.Equal(t, d.created.Load(), d.ended.Load())
}

// Acceptance 11.
func TestAPanicStillCloses(t *testing.T) {
	d := watch(nil, nil)
	var sb *sbx.Sandbox
	func() {
		defer func() { assert.Equal(t, "something went wrong", recover()) }()
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		defer session.Close()
		sb = session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		panic("something went wrong")
	}()
	assert.Equal(t, sbx.Stopped, sb.Status())
	assert.EqualValues(t, 1, d.ended.Load())
}

// Acceptance 12, 60: stops at the same time, Close's among them, are one.
func TestStopsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stops atomic.Int32
		d := watch(nil, func(context.Context, string) error {
			stops.Add(1)
			time.Sleep(3 * time.Second)
			return nil
		})
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		begin := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { assert.NoError(t, sb.Stop(t.Context())) })
		}
		all.Go(func() { assert.NoError(t, session.Close()) })
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, sb.Stop(short), context.DeadlineExceeded, "who does not wait disturbs nobody")
		assert.Equal(t, sbx.Stopping, sb.Status())
		all.Wait()
		assert.Equal(t, 3*time.Second, time.Since(begin))
		assert.Equal(t, sbx.Stopped, sb.Status())
		assert.EqualValues(t, 1, stops.Load())
	})
}

// Acceptance 18, 54: the sandbox of a start that Close or Stop overtakes is not left behind.
func TestStopsOvertakeStarts(t *testing.T) {
	for name, stop := range map[string]func(*sbx.Session, *sbx.Sandbox) error{
		"close": func(s *sbx.Session, _ *sbx.Sandbox) error { return s.Close() },
		"stop":  func(_ *sbx.Session, sb *sbx.Sandbox) error { return sb.Stop(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := watch(func(string) error { // which does not look at its context
					time.Sleep(2 * time.Second)
					return nil
				}, nil)
				session, err := sbx.Open(t.Context(), sbx.Driver(d))
				require.NoError(t, err)
				sb := session.Sandbox()
				started := make(chan error, 1)
				go func() { started <- sb.Start(t.Context()) }()
				time.Sleep(time.Second)
				assert.Equal(t, sbx.Starting, sb.Status())
				require.NoError(t, stop(session, sb))
				require.ErrorIs(t, <-started, sbx.ErrNotRunning)
				assert.Equal(t, sbx.Stopped, sb.Status())
				require.NoError(t, sb.Wait(t.Context()))
				require.NoError(t, session.Close())
				assert.EqualValues(t, 1, d.created.Load())
				assert.EqualValues(t, 1, d.ended.Load())
			})
		})
	}
}

// Whoever stops a sandbox that is being started need not wait for that: it is stopped all the same, and not started again.
func TestAStopOfAStartThatIsNotWaitedFor(t *testing.T) {
	for name, create := range map[string]func(string) error{
		"starts": func(string) error { time.Sleep(2 * time.Second); return nil },
		"fails":  func(string) error { time.Sleep(2 * time.Second); return errors.New("full") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := watch(create, nil)
				session, err := sbx.Open(t.Context(), sbx.Driver(d))
				require.NoError(t, err)
				sb := session.Sandbox()
				go func() { _ = sb.Start(t.Context()) }()
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				require.ErrorIs(t, sb.Stop(ctx), context.DeadlineExceeded)
				require.NoError(t, sb.Wait(t.Context()))
				assert.Equal(t, sbx.Stopped, sb.Status())
				require.ErrorIs(t, sb.Start(t.Context()), sbx.ErrNotRunning)
				synctest.Wait()
				assert.Zero(t, session.SandboxCount())
				require.NoError(t, session.Close())
				assert.Equal(t, d.created.Load(), d.ended.Load())
			})
		})
	}
}

// A start that was stopped may leave something that is stopped by a second try. It was stopped all the same, and did not end by itself.
func TestAStopOfAStartThatLeavesSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		d := watch(func(string) error { time.Sleep(2 * time.Second); return nil }, func(context.Context, string) error {
			if tries.Add(1) == 1 {
				return errors.New("busy")
			}
			return nil
		})
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		sb := session.Sandbox()
		go func() { _ = sb.Start(t.Context()) }()
		time.Sleep(time.Second)
		require.NoError(t, sb.Stop(t.Context()))
		assert.EqualValues(t, 2, tries.Load())
		assert.Equal(t, sbx.Stopped, sb.Status())
		require.NoError(t, sb.Wait(t.Context()))
		require.NoError(t, session.Close())
		assert.Equal(t, d.created.Load(), d.ended.Load())
	})
}

// Acceptance 50, 58.
func TestStartsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := watch(func(string) error {
			time.Sleep(2 * time.Second)
			return nil
		}, nil)
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		sb := session.Sandbox()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { assert.NoError(t, sb.Start(t.Context())) })
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, sb.Start(short), context.DeadlineExceeded, "who does not wait disturbs nobody")
		all.Wait()
		require.NoError(t, sb.Start(t.Context()), "again")
		assert.EqualValues(t, 1, d.created.Load())
		assert.Equal(t, sbx.Running, sb.Status())
		require.NoError(t, session.Close())
	})
}

// Acceptance 50, 58: a failure reaches all who wait, and the next use tries again, under the same id.
func TestAStartThatFailsIsTriedAgain(t *testing.T) {
	broken := errors.New("no disk")
	var fail atomic.Bool
	fail.Store(true)
	var ids sync.Map
	d := watch(func(id string) error {
		ids.Store(id, true)
		time.Sleep(time.Millisecond)
		if fail.Load() {
			return broken
		}
		return nil
	}, nil)
	session := sbxtest.Open(t, sbx.Driver(d))
	sb := session.Sandbox()
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			err := sb.Start(t.Context())
			var start *sbx.StartError
			assert.ErrorAs(t, err, &start)
			assert.ErrorIs(t, err, broken)
			assert.ErrorContains(t, err, sb.ID())
		})
	}
	all.Wait()
	assert.Equal(t, sbx.Unstarted, sb.Status())
	assert.Equal(t, 1, session.SandboxCount())
	_, err := session.Function(Double).In(sb).Call(t.Context(), 1)
	require.ErrorIs(t, err, broken)
	fail.Store(false)
	n, err := session.Function(Double).In(sb).Call(t.Context(), 4)
	require.NoError(t, err)
	assert.Equal(t, 8, n)
	ids.Range(func(id, _ any) bool { return assert.Equal(t, sb.ID(), id) })
}

// A start that fails is told once, whoever needed it.
func TestAStartThatFailsACall(t *testing.T) {
	broken := errors.New("no worker")
	session := sbxtest.Open(t, sbx.Driver(inprocess.New(&inprocess.Options{Start: func(string) error { return broken }})))
	_, err := session.Function(Double).In(session.Sandbox()).Call(t.Context(), 1)
	require.ErrorIs(t, err, broken)
	var start *sbx.StartError
	require.ErrorAs(t, err, &start)
	assert.Equal(t, 1, strings.Count(err.Error(), "no sandbox could be started"), "%v", err)
}

// Something is left of a start that failed: the error says why it failed, and a stop tries again.
func TestWhatIsLeftOfAStart(t *testing.T) {
	broken, stuck := errors.New("no worker"), errors.New("the disk is busy")
	var fail atomic.Bool
	fail.Store(true)
	d := watch(nil, func(context.Context, string) error {
		if fail.Load() {
			return stuck
		}
		return nil
	})
	d.Driver = inprocess.New(&inprocess.Options{Start: func(string) error { return broken }})
	session := sbxtest.Open(t, sbx.Driver(d))
	sb := session.Sandbox()
	for range 2 {
		err := sb.Start(t.Context())
		require.ErrorIs(t, err, broken)
		require.ErrorIs(t, err, stuck)
		require.ErrorIs(t, err, sbx.ErrNotRunning)
	}
	require.ErrorIs(t, sb.Stop(t.Context()), stuck)
	fail.Store(false)
	require.NoError(t, sb.Stop(t.Context()))
	assert.Equal(t, sbx.Lost, sb.Status())
	require.ErrorIs(t, sb.Wait(t.Context()), broken)
	assert.EqualValues(t, 1, d.ended.Load())
	assert.Zero(t, session.SandboxCount())
}

// Whoever joins a stop that is under way does not fail with it, but has a try of its own.
func TestAStopThatJoinsAnotherThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := errors.New("the disk is busy")
		var tries atomic.Int32
		session := sbxtest.Open(t, sbx.Driver(watch(nil, func(context.Context, string) error {
			if tries.Add(1) == 1 {
				time.Sleep(time.Second)
				return stuck
			}
			return nil
		})))
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		var first sync.WaitGroup
		first.Go(func() { _ = sb.Stop(t.Context()) }) // it fails, or sees the second try end
		synctest.Wait()
		require.NoError(t, sb.Stop(t.Context()))
		assert.Equal(t, sbx.Stopped, sb.Status())
		assert.EqualValues(t, 2, tries.Load())
		first.Wait()
	})
}

// Acceptance 21, 56, 63: a sandbox that ended by itself is Lost whatever is done with it later, and does not make Close fail.
func TestASandboxThatEndsByItself(t *testing.T) {
	for _, stopFails := range []bool{false, true} {
		t.Run(fmt.Sprint("its first stop fails: ", stopFails), func(t *testing.T) {
			stuck := errors.New("the disk is busy")
			var fail atomic.Bool
			fail.Store(stopFails)
			d := watch(nil, func(context.Context, string) error {
				if fail.Load() {
					return stuck
				}
				return nil
			})
			cut := make(chan net.Conn, 1)
			d.Driver = inprocess.New(&inprocess.Options{Conn: func(conn net.Conn) net.Conn {
				cut <- conn
				return conn
			}})
			session := sbxtest.Open(t, sbx.Driver(d))
			other := sbxtest.Open(t, sbx.Driver(d))
			sb := session.Sandbox()
			require.NoError(t, sb.Start(t.Context()))
			require.NoError(t, other.Adopt(sb))
			require.NoError(t, (<-cut).Close())
			if stopFails {
				require.Eventually(t, func() bool { return sb.Status() == sbx.Stopping }, 10*time.Second, time.Millisecond)
				require.Eventually(t, func() bool { return errors.Is(sb.Stop(t.Context()), stuck) }, 10*time.Second, time.Millisecond)
				fail.Store(false)
				require.NoError(t, sb.Stop(t.Context()))
			}
			err := sb.Wait(t.Context())
			require.Error(t, err)
			assert.ErrorContains(t, err, "ended by itself")
			assert.Equal(t, sbx.Lost, sb.Status())
			require.ErrorIs(t, sb.Start(t.Context()), sbx.ErrNotRunning)
			require.NoError(t, sb.Stop(t.Context()))
			assert.Equal(t, sbx.Lost, sb.Status())
			require.Eventually(t, func() bool { return session.SandboxCount()+other.SandboxCount() == 0 }, 10*time.Second, time.Millisecond)
			require.NoError(t, session.Close())
			assert.EqualValues(t, 1, d.ended.Load())
		})
	}
}

// Acceptance 13, 14, 16.
func TestListAndFromID(t *testing.T) {
	first := sbxtest.Open(t, sbx.Tags("team"))
	second := sbxtest.Open(t, sbx.Tags("team"))
	third := sbxtest.Open(t)
	elsewhere := sbxtest.Open(t, sbx.Driver(renamed{inprocess.New(nil)}))
	a, b, unstarted, plain := first.Sandbox(sbx.Tags("x", "y")), second.Sandbox(sbx.Tags("x")), first.Sandbox(sbx.Tags("x")), third.Sandbox(sbx.Tags("x"))
	for _, sb := range []*sbx.Sandbox{a, b, plain} {
		require.NoError(t, sb.Start(t.Context()))
	}
	_, err := first.Function(Double).Call(t.Context(), 1) // in a sandbox of the pool
	require.NoError(t, err)
	list := func(s *sbx.Session, tags ...string) []*sbx.Sandbox {
		found, err := s.List(t.Context(), tags...)
		require.NoError(t, err)
		for i, sb := range found {
			assert.Equal(t, sbx.Running, sb.Status())
			assert.True(t, i == 0 || found[i-1].ID() < sb.ID(), "sorted")
		}
		return found
	}
	assert.ElementsMatch(t, []*sbx.Sandbox{a, b}, list(first), "the session's own tags count")
	assert.ElementsMatch(t, []*sbx.Sandbox{a, b}, list(first, "x"))
	assert.ElementsMatch(t, []*sbx.Sandbox{a}, list(second, "x", "y"), "all tags are asked for")
	assert.ElementsMatch(t, []*sbx.Sandbox{a, b, plain}, list(third, "x"))
	assert.Empty(t, list(third, "none"))
	assert.Empty(t, list(elsewhere))
	assert.Equal(t, 1, third.SandboxCount(), "List does not adopt")
	var option *sbx.OptionError
	_, err = third.List(t.Context(), "")
	require.ErrorAs(t, err, &option)

	same, err := third.FromID(t.Context(), a.ID())
	require.NoError(t, err)
	assert.Same(t, a, same)
	_, err = third.FromID(t.Context(), a.ID())
	require.NoError(t, err)
	assert.Equal(t, 2, third.SandboxCount(), "FromID adopts, once")
	_, err = elsewhere.FromID(t.Context(), a.ID())
	require.ErrorIs(t, err, sbx.ErrNoSandbox)
	_, err = third.FromID(t.Context(), "no-such-sandbox")
	require.ErrorIs(t, err, sbx.ErrNoSandbox)
	assert.ErrorContains(t, err, "no-such-sandbox")
	require.ErrorContains(t, third.Adopt(unstarted), "start it first")
	require.ErrorAs(t, third.Adopt(nil), &option)

	require.NoError(t, a.Stop(t.Context()))
	assert.ElementsMatch(t, []*sbx.Sandbox{b}, list(first))
	_, err = third.FromID(t.Context(), a.ID())
	require.ErrorIs(t, err, sbx.ErrNoSandbox)
	require.ErrorIs(t, third.Adopt(a), sbx.ErrNotRunning)
	assert.Equal(t, 1, third.SandboxCount())

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = third.List(ended)
	require.ErrorIs(t, err, context.Canceled)
	_, err = third.FromID(ended, b.ID())
	require.ErrorIs(t, err, context.Canceled)
}

// renamed is a driver with another name.
type renamed struct{ driver.Driver }

func (renamed) Name() string { return "renamed" }

// Acceptance 19: calls in the program's own sandboxes end with Close, too.
func TestCloseEndsCallsInSandboxes(t *testing.T) {
	session := sbxtest.Open(t)
	sb := session.Sandbox()
	call := session.Function(Wait).In(sb).Spawn(t.Context(), false)
	require.Eventually(t, func() bool { return call.Sandbox() != "" }, 10*time.Second, time.Millisecond)
	require.NoError(t, session.Close())
	_, err := call.Result(t.Context())
	require.ErrorIs(t, err, sbx.ErrClosed)
}

// Acceptance 23: Close is bounded, whatever the driver does.
func TestCloseBoundsTheStopOfSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := watch(nil, stopsFrom(release))
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		begin := time.Now()
		err = session.Close()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, sb.ID())
		assert.LessOrEqual(t, time.Since(begin), 21*time.Second)
		close(release)
		require.NoError(t, session.Close())
		assert.Equal(t, sbx.Stopped, sb.Status())
	})
}

// closer is a driver that says when a session of its is closed.
type closer struct {
	driver.Driver
	closed chan struct{}
}

type closerSession struct {
	driver.Session
	closed chan struct{}
}

func (c closer) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := c.Driver.Open(ctx, spec)
	return closerSession{session, c.closed}, err
}

func (s closerSession) Close(ctx context.Context) error {
	err := s.Session.Close(ctx)
	close(s.closed)
	return err
}

// An engine may be too slow for the stops of many sandboxes at the same time, and yet end all of them in time.
func TestWhatTheDriverEndsInCloseIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		d := watch(nil, stopsFrom(closed))
		session, err := sbx.Open(t.Context(), sbx.Driver(closer{d, closed}))
		require.NoError(t, err)
		sb := session.Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		_, err = session.Function(Double).Call(t.Context(), 1) // in a sandbox of the pool
		require.NoError(t, err)
		require.NoError(t, session.Close())
		assert.Equal(t, sbx.Stopped, sb.Status())
		assert.EqualValues(t, 2, d.ended.Load())
	})
}

// Acceptance 3, 5, 17: a sandbox has the session's defaults and what its own options say beside or instead.
func TestASandboxHasTheSessionsDefaults(t *testing.T) {
	session := sbxtest.Open(t, sbx.Tags("a"))
	sb := session.Sandbox(sbx.Tags("b"))
	assert.Equal(t, []string{"a", "b"}, sb.Tags())
	sb.Tags()[0] = "changed"
	assert.Equal(t, []string{"a", "b"}, sb.Tags())
	assert.Equal(t, []string{"a"}, session.Sandbox().Tags())

	bad := session.Sandbox(sbx.Env("", "x"), sbx.Concurrency(0))
	var option *sbx.OptionError
	err := bad.Start(t.Context())
	require.ErrorAs(t, err, &option)
	assert.ErrorContains(t, err, "Env")
	assert.ErrorContains(t, err, "Concurrency", "all that is wrong is said at once")
	assert.Equal(t, 2, session.SandboxCount(), "what is wrong is no sandbox")
	require.ErrorAs(t, session.Adopt(bad), &option)
}

// Acceptance 70.
func TestNothingIsDoneInASandboxThatDoesNotRun(t *testing.T) {
	stuck := errors.New("the disk is busy")
	var fail atomic.Bool
	session := sbxtest.Open(t, sbx.Driver(watch(nil, func(context.Context, string) error {
		if fail.Load() {
			return stuck
		}
		return nil
	})))
	stopped, stopping := session.Sandbox(), session.Sandbox()
	for _, sb := range []*sbx.Sandbox{stopped, stopping} {
		require.NoError(t, sb.Start(t.Context()))
	}
	require.NoError(t, stopped.Stop(t.Context()))
	fail.Store(true)
	require.ErrorIs(t, stopping.Stop(t.Context()), stuck)
	defer fail.Store(false)
	for _, sb := range []*sbx.Sandbox{stopped, stopping} {
		require.ErrorIs(t, sb.Start(t.Context()), sbx.ErrNotRunning)
		require.ErrorIs(t, sb.Command("true").Run(), sbx.ErrNotRunning)
		_, err := sb.ReadFile(t.Context(), "a")
		require.ErrorIs(t, err, sbx.ErrNotRunning)
		require.ErrorIs(t, sb.WriteFile(t.Context(), "a", nil, 0o600), sbx.ErrNotRunning)
		_, err = sb.Open(t.Context(), "a")
		require.ErrorIs(t, err, sbx.ErrNotRunning)
		require.ErrorIs(t, sb.Remove(t.Context(), "a"), sbx.ErrNotRunning)
		_, err = sb.ReadDir(t.Context(), ".")
		require.ErrorIs(t, err, sbx.ErrNotRunning)
		_, err = session.Function(Double).In(sb).Call(t.Context(), 1)
		require.ErrorIs(t, err, sbx.ErrNotRunning)
		assert.ErrorContains(t, err, "it was stopped")
	}
}

// Careless: the error of Run was not looked at.
func TestASandboxThatWasNotMade(t *testing.T) {
	session := sbxtest.Open(t)
	failed, err := sbx.Run(t.Context(), sbx.MaxSandboxes(0))
	require.Error(t, err)
	for _, sb := range []*sbx.Sandbox{failed, {}} {
		var option *sbx.OptionError
		_, read := sb.ReadFile(t.Context(), "f")
		_, called := session.Function(Double).In(sb).Call(t.Context(), 1)
		copied := sb.CopyTo(t.Context(), t.TempDir(), "copy")
		for _, err := range []error{sb.Start(t.Context()), sb.Stop(t.Context()), sb.Close(), sb.Wait(t.Context()), session.Adopt(sb), read, called, copied} {
			require.ErrorAs(t, err, &option)
			assert.ErrorContains(t, err, "the sandbox was not made")
		}
		assert.Empty(t, sb.ID())
	}
	assert.Zero(t, session.SandboxCount())
}

func TestAdoptingWhatHasEnded(t *testing.T) {
	session := sbxtest.Open(t)
	sb := session.Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	require.NoError(t, sb.Stop(t.Context()))
	adopted := make(chan error, 1)
	go func() { adopted <- session.Adopt(sb) }()
	select {
	case err := <-adopted:
		require.ErrorIs(t, err, sbx.ErrNotRunning, "by its own session, too")
	case <-time.After(10 * time.Second):
		t.Fatal("Adopt hangs")
	}
}

// Many hands do anything at any time: nothing hangs, and nothing is left behind or counted twice.
func TestManyHands(t *testing.T) {
	var stops atomic.Int32
	d := watch(nil, func(context.Context, string) error {
		if stops.Add(1)%7 == 0 {
			return errors.New("the disk is busy")
		}
		return nil
	})
	watcher := sbxtest.Open(t, sbx.Driver(d))
	for round := range 20 {
		tag := fmt.Sprint("round ", round)
		session, err := sbx.Open(t.Context(), sbx.Driver(d), sbx.Tags(tag))
		require.NoError(t, err)
		other, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		sandboxes := make([]*sbx.Sandbox, 4)
		for i := range sandboxes {
			sandboxes[i] = session.Sandbox()
		}
		double := session.Function(Double)
		closing := mathrand.IntN(60)
		var done atomic.Int32
		var hands sync.WaitGroup
		for range 6 {
			hands.Go(func() {
				for range 20 {
					sb := sandboxes[mathrand.IntN(len(sandboxes))]
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(mathrand.IntN(2000))*time.Microsecond)
					switch mathrand.IntN(12) {
					case 0, 1, 2:
						_ = sb.Start(ctx)
					case 3, 4, 5:
						if n, err := double.In(sb).Call(ctx, 4); err == nil {
							assert.Equal(t, 8, n)
						}
					case 6:
						_ = sb.Stop(ctx)
					case 7:
						_ = other.Adopt(sb)
					case 8:
						_, _ = other.FromID(ctx, sb.ID())
					case 9:
						_, _ = other.List(ctx)
					case 10:
						_ = sb.Wait(ctx)
					case 11:
						_ = fmt.Sprint(sb, session, session.Stats(), other.SandboxCount())
					}
					cancel()
					if int(done.Add(1)) == closing {
						_ = session.Close()
					}
				}
			})
		}
		hands.Wait()
		for _, s := range []*sbx.Session{other, session} {
			require.Eventually(t, func() bool { return s.Close() == nil }, 20*time.Second, time.Millisecond)
			assert.Zero(t, s.SandboxCount())
		}
		for _, sb := range sandboxes {
			assert.Contains(t, []sbx.Status{sbx.Stopped, sbx.Lost}, sb.Status())
			ended, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			assert.NotErrorIs(t, sb.Wait(ended), context.DeadlineExceeded)
			cancel()
		}
		found, err := watcher.List(t.Context(), tag)
		require.NoError(t, err)
		assert.Empty(t, found)
		assert.Equal(t, d.created.Load(), d.ended.Load())
		stats := session.Stats().Own
		assert.EqualValues(t, 4, stats.Made)
		assert.LessOrEqual(t, stats.Started, stats.Made)
	}
}

// Nobody has to adopt a sandbox of another session to call a function in it.
func TestCloseEndsCallsInSandboxesOfOthers(t *testing.T) {
	other := sbxtest.Open(t)
	sb := other.Sandbox()
	for _, drain := range []bool{false, true} {
		session := sbxtest.Open(t)
		key := fmt.Sprint(t.Name(), serial.Add(1))
		call := session.Function2(Count).In(sb).Spawn(t.Context(), key, time.Hour)
		queued := session.Function2(Count).In(sb).Spawn(t.Context(), key, time.Hour)
		require.Eventually(t, func() bool { return began(key) == 1 }, time.Minute, time.Millisecond)
		if drain {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			require.ErrorIs(t, session.Shutdown(ctx), context.DeadlineExceeded)
			cancel()
		} else {
			require.NoError(t, session.Close())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := call.Result(ctx)
		require.ErrorIs(t, err, sbx.ErrClosed)
		assert.Equal(t, sbx.MayHaveRun, delivery(t, err))
		_, err = queued.Result(ctx)
		require.ErrorIs(t, err, sbx.ErrClosed)
		if delivery(t, err) == sbx.NotBegun { // else the place was free before its own context had ended
			assert.Equal(t, 1, began(key))
		}
		cancel()
		assert.Equal(t, sbx.Running, sb.Status(), "it is another session's")
	}
	n, err := other.Function(Double).In(sb).Call(t.Context(), 2)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
}
