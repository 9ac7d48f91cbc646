// Package drivertest is the suite that every driver passes. Its audience is the author of a driver, who calls [Run] from
// a test:
//
//	func TestDriver(t *testing.T) {
//		drivertest.Run(t, mine.New(), drivertest.Features{Processes: true})
//	}
//
// The test binary is the worker: importing this package is enough for that.
package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long anything may take that a working driver does in milliseconds.
const patience = 30 * time.Second

// Features say what a driver has, so that clauses about the rest don't run.
type Features struct {
	// Processes says that a worker is a process of its own, with an environment, output and an exit status.
	Processes bool
	// Isolation says that nothing escapes a sandbox's end, whatever process group or session it is in. The driver's report says
	// that its level is above driver.NoIsolation then, and only then.
	Isolation bool
	// Mounts says that sandboxes can show what this machine has, and WritableMounts that they can change it.
	Mounts, WritableMounts bool
	// Image is one that sandboxes can have, other than the default; empty for a driver without images.
	Image string
	// CPUs is the most that a sandbox can be given; 0 is any number.
	CPUs float64
}

// Run runs the suite against d.
func Run(t *testing.T, d driver.Driver, has Features) {
	clauses := []struct {
		name    string
		applies bool
		run     func(*suite)
	}{
		{"a call is answered", true, (*suite).answers},
		{"a large value crosses whole", true, (*suite).large},
		{"calls have a socket of their own", true, (*suite).direct},
		{"sandboxes work side by side", true, (*suite).sideBySide},
		{"create ends with its context", true, (*suite).createCancelled},
		{"a sandbox has one worker", true, (*suite).oneWorker},
		{"stop ends the worker and can be repeated", true, (*suite).stop},
		{"stop ends a worker that ignores its context", has.Processes, (*suite).stopBlocked},
		{"close ends what is left", true, (*suite).closeSession},
		{"kill ends the worker", true, (*suite).kill},
		{"exit codes are reported", has.Processes, (*suite).exitCode},
		{"a crash is reported whatever became of standard error", has.Processes, (*suite).crashReported},
		{"signals are reported", has.Processes, (*suite).signal},
		{"SIGTERM does not end a worker", has.Processes, (*suite).terminate},
		{"output arrives, each stream in order", has.Processes, (*suite).output},
		{"the environment is what the spec gives", has.Processes, (*suite).environment},
		{"a worker starts in an empty folder of its own", has.Processes, (*suite).folder},
		{"it is known which calls had begun", has.Processes, (*suite).begun},
		{"a call that waits in a worker can be taken back", true, (*suite).withdraw},
		{"a function's context ends with its call", true, (*suite).cancel},
		{"a worker ends calls by their time", true, (*suite).deadlines},
		{"a worker ends itself when a function outlasts its time", has.Processes, (*suite).outlast},
		{"a worker that is stopped is given up", has.Processes, (*suite).stopped},
		{"a worker whose session is silent ends itself", has.Processes, (*suite).silence},
		{"standard input is empty", has.Processes, (*suite).standardInput},
		{"orphans end with the sandbox", has.Processes && has.Isolation, (*suite).orphan},
		{"the report is whole", true, (*suite).report},
		{"a limit is held or refused", true, (*suite).limits},
		{"an image is used or refused", true, (*suite).images},
		{"an image that there is none of is refused", true, (*suite).noImage},
		{"a mount is shown or refused", true, (*suite).mounts},
		{"a writable mount is written to or refused", true, (*suite).writableMounts},
		{"a mount that makes no sense is refused", has.Mounts, (*suite).badMounts},
		{"a worker that does not start is an error", has.Processes, (*suite).badWorker},
	}
	for _, clause := range clauses {
		if !clause.applies {
			continue
		}
		t.Run(clause.name, func(t *testing.T) {
			// Registered first, so that it runs last.
			ignore := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			s := &suite{T: t, driver: d, has: has, ctx: ctx}
			s.session = s.open(executable(t))
			clause.run(s)
		})
	}
}

func executable(t *testing.T) string {
	path, err := worker.Executable()
	require.NoError(t, err)
	return path
}

// suite is one clause's run.
type suite struct {
	*testing.T
	driver  driver.Driver
	has     Features
	ctx     context.Context
	session driver.Session
	serial  int
}

func (s *suite) open(worker string) driver.Session {
	session, err := s.driver.Open(s.ctx, driver.SessionSpec{
		ID: "drivertest", Worker: at(worker), Logger: slog.New(slog.NewTextHandler(s.Output(), nil)),
	})
	require.NoError(s, err)
	s.Cleanup(func() { assert.NoError(s, session.Close(context.Background())) })
	return session
}

// at is for a session whose executable is the file at path.
func at(path string) func(context.Context, driver.Platform) (string, error) {
	return func(context.Context, driver.Platform) (string, error) { return path, nil }
}

func (s *suite) create(env ...string) driver.Sandbox {
	s.serial++
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: fmt.Sprintf("drivertest-%d", s.serial), Env: env})
	require.NoError(s, err)
	s.Cleanup(func() { assert.NoError(s, sandbox.Stop(context.Background())) })
	return sandbox
}

// printed collects what a worker prints, until it is closed.
type printed struct{ stdout, stderr bytes.Buffer }

func (s *suite) launch(sandbox driver.Sandbox) (*launch.Worker, *printed) {
	printed := &printed{}
	running, err := launch.Start(s.ctx, sandbox, launch.Config{
		Session: "drivertest", Sandbox: "drivertest", Divert: worker.Diverts(), Concurrency: 4, Lease: patience,
		Output: &launch.Writers{Stdout: &printed.stdout, Stderr: &printed.stderr},
	})
	require.NoError(s, err)
	s.Cleanup(func() {
		assert.NoError(s, sandbox.Stop(context.Background()))
		running.Close()
	})
	return running, printed
}

// call starts a call of one of the suite's functions.
func call[In any](s *suite, w *launch.Worker, function string, in In) *launch.Pending {
	entry, ok := registry.ByName(name(function))
	require.True(s, ok)
	argument, err := entry.EncodeArgs(nil, &in)
	require.NoError(s, err)
	remote, ok := w.Function(entry.Name())
	require.True(s, ok, "the worker has %s", entry.Name())
	return w.Go(&wirepb.Call{Attempt: 1, Function: remote.Index}, argument)
}

// result waits for a call and decodes what it returned.
func result[Out any](s *suite, function string, p *launch.Pending) (out Out) {
	s.await(p.Done(), "a result of "+function)
	value, ok := p.Result().GetOutcome().(*wirepb.Result_Value)
	require.True(s, ok, "%s: %v", function, p.Result())
	entry, _ := registry.ByName(name(function))
	require.NoError(s, entry.DecodeResult(value.Value.GetData(), &out))
	return out
}

func (s *suite) await(done <-chan struct{}, what string) {
	s.Helper()
	select {
	case <-done:
	case <-s.ctx.Done():
		s.Fatalf("no %s in %v", what, patience)
	}
}

func (s *suite) answers() {
	w, _ := s.launch(s.create())
	for i := range 3 {
		want := []byte{byte(i), 0, 255}
		assert.Equal(s, want, result[[]byte](s, "echo", call(s, w, "echo", want)))
	}
}

func (s *suite) large() {
	w, _ := s.launch(s.create())
	want := make([]byte, 9<<20+1)
	for i := range want {
		want[i] = byte(i * i >> 8)
	}
	big := call(s, w, "echo", want)
	// A small call overtakes it, and does not disturb it.
	assert.Equal(s, []byte("small"), result[[]byte](s, "echo", call(s, w, "echo", []byte("small"))))
	got := result[[]byte](s, "echo", big)
	assert.True(s, slices.Equal(want, got), "%d bytes came back", len(got))
}

func (s *suite) sideBySide() {
	const n = 4
	sandboxes := make([]driver.Sandbox, n)
	for i := range sandboxes {
		sandboxes[i] = s.create()
	}
	workers := make([]*launch.Worker, n)
	var starts sync.WaitGroup
	for i := range sandboxes {
		starts.Go(func() { workers[i], _ = s.launch(sandboxes[i]) })
	}
	starts.Wait()
	for i, w := range workers {
		require.NotNil(s, w)
		assert.Equal(s, []byte{byte(i)}, result[[]byte](s, "echo", call(s, w, "echo", []byte{byte(i)})))
	}
	require.NoError(s, sandboxes[0].Stop(s.ctx))
	assert.Equal(s, []byte("on"), result[[]byte](s, "echo", call(s, workers[1], "echo", []byte("on"))), "another sandbox's stop disturbs nobody")
}

func (s *suite) createCancelled() {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	sandbox, err := s.session.Create(ctx, driver.Spec{ID: "cancelled"})
	assert.ErrorIs(s, err, context.Canceled)
	assert.Nil(s, sandbox)
	_, err = s.create().StartWorker(ctx, driver.WorkerSpec{})
	assert.ErrorIs(s, err, context.Canceled)
}

func (s *suite) oneWorker() {
	sandbox := s.create()
	w, _ := s.launch(sandbox)
	_, err := sandbox.StartWorker(s.ctx, driver.WorkerSpec{})
	require.Error(s, err)
	assert.Equal(s, []byte("1"), result[[]byte](s, "echo", call(s, w, "echo", []byte("1"))), "the first worker is still there")
}

func (s *suite) stop() {
	sandbox := s.create()
	w, _ := s.launch(sandbox)
	call(s, w, "block", false)
	var stops sync.WaitGroup
	for range 3 {
		stops.Go(func() { assert.NoError(s, sandbox.Stop(s.ctx)) })
	}
	stops.Wait()
	s.await(w.Done(), "end of the worker")
	require.NoError(s, sandbox.Stop(s.ctx))
	_, err := sandbox.StartWorker(s.ctx, driver.WorkerSpec{})
	require.ErrorIs(s, err, driver.ErrStopped)
}

func (s *suite) stopBlocked() {
	sandbox := s.create()
	w, _ := s.launch(sandbox)
	call(s, w, "block", true)
	assert.Equal(s, []byte("alive"), result[[]byte](s, "echo", call(s, w, "echo", []byte("alive"))))
	require.NoError(s, sandbox.Stop(s.ctx))
	s.await(w.Done(), "end of the worker")
}

func (s *suite) closeSession() {
	sandbox := s.create()
	w, _ := s.launch(sandbox)
	s.create() // one without a worker
	var closes sync.WaitGroup
	for range 2 {
		closes.Go(func() { assert.NoError(s, s.session.Close(s.ctx)) })
	}
	closes.Wait()
	s.await(w.Done(), "end of the worker")
	_, err := s.session.Create(s.ctx, driver.Spec{ID: "late"})
	require.ErrorIs(s, err, driver.ErrStopped)
}

func (s *suite) kill() {
	process := s.start(s.create())
	require.NoError(s, process.Kill())
	exit, err := process.Wait(s.ctx)
	require.NoError(s, err)
	assert.Equal(s, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
	require.NoError(s, process.Kill(), "a process that has ended is not an error")
	_, err = io.Copy(io.Discard, process.Conn())
	if err != nil {
		var netErr net.Error
		assert.False(s, assert.ErrorAs(s, err, &netErr) && netErr.Timeout(), "the stream ends: %v", err)
	}
}

// start starts a worker that waits for its session, and nothing around it.
func (s *suite) start(sandbox driver.Sandbox) driver.Process {
	boot := wire.Boot{Divert: worker.Diverts(), Plugin: []string{
		wire.Handshake.MagicCookieKey + "=" + wire.Handshake.MagicCookieValue, fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", wire.Version),
	}}
	process, err := sandbox.StartWorker(s.ctx, driver.WorkerSpec{Env: []string{wire.BootVariable + "=" + boot.Encode()}})
	require.NoError(s, err)
	s.Cleanup(func() {
		_ = process.Kill()
		_ = process.Conn().Close()
		if direct := process.Direct(); direct != nil {
			_ = direct.Close()
		}
		for _, stream := range []io.Closer{process.Handshake(), process.Stdout(), process.Stderr()} {
			_ = stream.Close()
		}
		if ledger := process.Ledger(); ledger != nil {
			_ = ledger.Close()
		}
	})
	return process
}

func (s *suite) exitCode() {
	w, _ := s.launch(s.create())
	call(s, w, "exit", 7)
	s.await(w.Done(), "end of the worker")
	require.NotNil(s, w.Lost().Exit, "%v", w.Lost())
	assert.Equal(s, driver.Exit{Code: 7}, *w.Lost().Exit)
}

func (s *suite) crashReported() {
	for _, stderr := range []string{"kept", "closed", "another"} {
		w, _ := s.launch(s.create())
		call(s, w, "panicElsewhere", stderr)
		s.await(w.Done(), "end of the worker")
		lost := w.Lost()
		require.NotNil(s, lost.Exit, "%v", lost)
		assert.Equal(s, driver.Exit{Code: 2}, *lost.Exit, stderr)
		require.NotNil(s, lost.Crash, "%s: what the worker writes on driver.HandshakeFD arrives until its end", stderr)
		assert.Equal(s, stderr, lost.Crash.Message)
		assert.Contains(s, lost.Crash.Stack, "drivertest.panicElsewhere")
		assert.Contains(s, lost.Crash.Stack, "functions.go:")
	}
}

func (s *suite) signal() {
	w, _ := s.launch(s.create())
	call(s, w, "crash", int(syscall.SIGKILL))
	s.await(w.Done(), "end of the worker")
	require.NotNil(s, w.Lost().Exit, "%v", w.Lost())
	assert.Equal(s, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, *w.Lost().Exit)
}

func (s *suite) begun() {
	sandbox := s.create()
	w, _ := s.launch(sandbox)
	stops := call(s, w, "crash", stopSignal)
	// Nothing tells when a process has stopped itself, nor when bytes have reached its socket.
	pause := func() { <-time.After(100 * time.Millisecond) }
	pause()
	known := w.Queues() // or else the driver shares no memory with its workers, and what was sent may have begun
	var waiting []*launch.Pending
	for range 3 {
		waiting = append(waiting, call(s, w, "echo", []byte("3")))
	}
	pause()
	require.NoError(s, sandbox.Stop(s.ctx))
	s.await(w.Done(), "end of the worker")
	assert.True(s, stops.Begun())
	for _, pending := range waiting {
		select {
		case <-pending.Done():
		default:
			assert.Equal(s, !known, pending.Begun(), "a stopped worker begins nothing")
		}
	}
}

func (s *suite) output() {
	const n = 5000
	sandbox := s.create()
	w, printed := s.launch(sandbox)
	assert.Equal(s, n, result[int](s, "printLines", call(s, w, "printLines", n)))
	call(s, w, "exit", 0)
	s.await(w.Done(), "end of the worker")
	require.NoError(s, sandbox.Stop(s.ctx))
	w.Close() // nothing is printed afterwards
	for prefix, stream := range map[string]*bytes.Buffer{"out": &printed.stdout, "err": &printed.stderr} {
		got := strings.Split(strings.TrimSuffix(stream.String(), "\n"), "\n")
		require.Len(s, got, n, prefix)
		for i, line := range got {
			require.Equal(s, fmt.Sprintf("%s %d", prefix, i), line)
		}
	}
	assert.Len(s, w.Lost().LastLines, 20)
}

func (s *suite) terminate() {
	w, _ := s.launch(s.create())
	for range 2 {
		assert.Equal(s, []byte("data"), result[[]byte](s, "terminate", call(s, w, "terminate", []byte("data"))))
	}
	assert.Equal(s, []byte("data"), result[[]byte](s, "echo", call(s, w, "echo", []byte("data"))))
}

func (s *suite) environment() {
	s.Setenv("DRIVERTEST_SECRET", "of the host")
	// One of them means something to go-plugin, which is how the worker is started.
	w, _ := s.launch(s.create("B=2", "PLUGIN_CLIENT_CERT=none", "A=1 = one"))
	assert.Equal(s, []string{"A=1 = one", "B=2", "PLUGIN_CLIENT_CERT=none"}, result[[]string](s, "environment", call(s, w, "environment", 0)))
	w, _ = s.launch(s.create())
	assert.Empty(s, result[[]string](s, "environment", call(s, w, "environment", 0)))
}

func (s *suite) folder() {
	here, err := os.Getwd()
	require.NoError(s, err)
	for range 2 { // the second finds nothing of the first
		w, _ := s.launch(s.create())
		folder := result[string](s, "fillFolder", call(s, w, "fillFolder", "file"))
		assert.NotEqual(s, here, folder)
	}
	assert.NoFileExists(s, "file")
}

func (s *suite) standardInput() {
	w, _ := s.launch(s.create())
	assert.Zero(s, result[int](s, "standardInput", call(s, w, "standardInput", 0)))
}

// ending tells when the worker's standard output has ended, which is when no process holds it any more.
type ending struct {
	driver.Sandbox
	ended chan struct{}
}

type endingProcess struct {
	driver.Process
	stdout io.ReadCloser
}

func (p endingProcess) Stdout() io.ReadCloser { return p.stdout }

type endingReader struct {
	io.ReadCloser
	end func()
}

func (r endingReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err == io.EOF {
		r.end()
	}
	return n, err
}

func (e ending) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	process, err := e.Sandbox.StartWorker(ctx, spec)
	if err != nil {
		return nil, err
	}
	end := sync.OnceFunc(func() { close(e.ended) })
	return endingProcess{process, endingReader{process.Stdout(), end}}, nil
}

func (s *suite) orphan() {
	sandbox := ending{s.create(), make(chan struct{})}
	w, _ := s.launch(sandbox)
	result[int](s, "orphan", call(s, w, "orphan", 0))
	select {
	case <-sandbox.ended:
		s.Fatal("the orphan does not hold standard output, so its end can't be seen")
	default:
	}
	require.NoError(s, sandbox.Stop(s.ctx))
	s.await(sandbox.ended, "end of the orphan")
}

func (s *suite) badWorker() {
	path := s.TempDir() + "/no-program"
	require.NoError(s, os.WriteFile(path, []byte("#!/bin/false\n"), 0o755))
	session, err := s.driver.Open(s.ctx, driver.SessionSpec{ID: "bad", Worker: at(path), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return // a driver may see it at once
	}
	s.Cleanup(func() { assert.NoError(s, session.Close(context.Background())) })
	sandbox, err := session.Create(s.ctx, driver.Spec{ID: "bad-1"})
	if err != nil {
		return
	}
	_, err = launch.Start(s.ctx, sandbox, launch.Config{Divert: 1})
	require.Error(s, err)
	require.NoError(s, sandbox.Stop(s.ctx))
}
