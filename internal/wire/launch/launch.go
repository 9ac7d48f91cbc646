// Package launch starts a worker in a sandbox and calls its functions: the session's side of package wire. Its audience
// is package sbx. It is the one place that knows both go-plugin and drivers: a driver's process becomes a go-plugin
// runner here.
//
// A [Worker] owns these goroutines, and [Worker.Close] waits for them: the connection's sender, the receiver, one reader
// each for standard output, standard error and the handshake's pipe, and the watcher that learns how the process ended;
// go-plugin adds its own.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// startTimeout bounds a start, up to the worker's welcome, whatever the caller's context says.
const startTimeout = time.Minute

// maxHeaders bounds the headers that a worker sends, which say no more than how the stream ended.
const maxHeaders = 64 << 10

var errSlow = fmt.Errorf("the worker was not ready within %v; package variables and init functions run in the sandbox too, and all of it takes longer where this program or the machine is busy", startTimeout)

// commonFolders are for temporary files where TMPDIR's is of no use. Only a test changes them.
var commonFolders = []string{"/dev/shm", "/tmp"}

// Config is what Start needs beside the sandbox.
type Config struct {
	// Session and Sandbox are the ids that the worker tells user code.
	Session, Sandbox string
	// Divert is the number of the call of worker.Divert at which the program becomes a worker.
	Divert int
	// Concurrency is how many calls the worker runs at a time; 0 is one.
	Concurrency int
	// Lease is how long the worker may show no sign of life before it is given up, and hear nothing before it ends itself; 0 is
	// for ever.
	Lease time.Duration
	// Logs takes what user code logs, and the lines that it prints. Nil drops them.
	Logs *Logs
	// Output takes what user code prints instead, if it is not nil. Each writer is called by one goroutine, and not after
	// Close returned unless it blocks itself.
	Output *Writers
}

// Start starts the worker of sandbox, agrees with it on a version, and opens its stream. When it fails or ctx ends, the
// process is dead or dying and its streams are closed; the sandbox remains the caller's to stop.
//
// go-plugin launches the worker and negotiates. The connection is made here: go-plugin's own leaks one whose worker ends
// at the wrong moment, and opens streams for a broker and for output that a worker doesn't have. Its goroutines end
// when the process has ended, so there is nothing to Kill.
func Start(ctx context.Context, sandbox driver.Sandbox, config Config) (_ *Worker, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errSlow)
	defer cancel()
	adapter := &processRunner{ctx: ctx, sandbox: sandbox, config: config}
	defer func() {
		if err != nil {
			adapter.abandon()
			// What the worker printed last says best why it did not start.
			err = adapter.explain(ctx, err)
		}
	}()
	// go-plugin's Start takes no context: end what it waits for.
	stop := context.AfterFunc(ctx, adapter.abandon)
	defer stop()

	// The first folder that go-plugin can make one in: a full or missing TMPDIR is no reason to fail. Nothing is made to find out, which would
	// be left behind where the program is killed at that moment. That go-plugin's own is not, a driver sees to if it can.
	folders := append([]string{os.TempDir()}, commonFolders...)
	if private, ok := sandbox.(interface{ TemporaryFolder() string }); ok {
		folders = append([]string{private.TemporaryFolder()}, folders...)
	}
	for _, folder := range folders {
		if err = adapter.negotiate(folder); err == nil || adapter.folder {
			break
		}
	}
	switch {
	case err != nil && !adapter.folder:
		return nil, fmt.Errorf("make a temporary folder; TMPDIR can name another place: %w", err)
	case err != nil:
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///sandbox",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // an inherited socket
		grpc.WithContextDialer(adapter.dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFrame), grpc.MaxCallSendMsgSize(wire.MaxFrame),
			grpc.ForceCodecV2(wire.Codec())),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithStaticStreamWindowSize(wire.Window),
		grpc.WithStaticConnWindowSize(wire.Window), // whose room comes back whether anybody reads or not: with the default's 64 KiB senders wait for that
		grpc.WithWriteBufferSize(wire.WriteBuffer),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	worker := &Worker{grpc: conn, guard: adapter.guard, process: adapter.process, output: adapter.output, report: adapter.report, coverage: adapter.coverage, calls: map[uint64]*Pending{}, done: make(chan struct{})}
	if err := worker.open(config); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return worker, nil
}

// negotiate has go-plugin start the process and agree with the worker. Go-plugin makes a folder below temporary first.
func (r *processRunner) negotiate(temporary string) error {
	_, err := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{wire.Version: {}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     startTimeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: temporary},
		Logger:           hclog.NewNullLogger(),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, folder string) (runner.Runner, error) {
			r.folder, r.env = true, cmd.Env
			// The folder is for sockets of a plugin on this machine. Ours has none, and what is not there can't be left behind.
			return r, os.Remove(folder)
		},
	}).Start()
	return err
}

// processRunner makes a driver's process a runner.Runner.
type processRunner struct {
	ctx     context.Context // of Start, which go-plugin does not hand on
	sandbox driver.Sandbox
	config  Config
	env     []string
	folder  bool // go-plugin could make its folder

	process  driver.Process
	wentOn   bool        // it did not end by itself
	guard    *wire.Guard // over the process's connection
	output   *output
	report   *report
	coverage string // the folder for it; empty if it is not wanted

	mu     sync.Mutex
	dialed bool
}

func (r *processRunner) Start(context.Context) error {
	boot := wire.Boot{Divert: r.config.Divert}
	limit := maxReport
	if r.coverage, boot.Test = coverageFolder(); r.coverage != "" {
		boot.Coverage = true
		limit += maxCoverage
	}
	boot.Test = boot.Test && boot.Coverage
	for _, variable := range r.env {
		// The folder that go-plugin offers is one of this machine.
		if !strings.HasPrefix(variable, plugin.EnvUnixSocketDir+"=") {
			boot.Plugin = append(boot.Plugin, variable)
		}
	}
	process, err := r.sandbox.StartWorker(r.ctx, driver.WorkerSpec{Env: []string{wire.BootVariable + "=" + boot.Encode()}})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.process, r.guard, r.report = process, wire.NewGuard(process.Conn()), readReport(process.Handshake(), limit)
	r.mu.Unlock()
	r.output = readOutput(process, r.config)
	if r.ctx.Err() != nil {
		r.abandon()
	}
	return nil
}

// dial returns the process's byte stream, once: the worker has no second one, and a lost one is not found again.
func (r *processRunner) dial(context.Context, string) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dialed {
		return nil, errors.New("the sandbox's stream has ended")
	}
	r.dialed = true
	return r.guard, nil
}

// abandon kills the process and closes its streams, so that whoever waits for them goes on. What it may have said of its
// end is for explain to read.
func (r *processRunner) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return
	}
	_ = r.process.Kill()
	_ = r.report.Close()
	if file := r.process.Ledger(); file != nil {
		_ = file.Close()
	}
	// Also if it is dialed: something that the worker started may hold the other end, and never answer.
	_ = r.process.Conn().Close()
	if direct := r.process.Direct(); direct != nil {
		_ = direct.Close()
	}
}

// explain adds to a failed start what is known of the process. Call it after the process was killed.
func (r *processRunner) explain(ctx context.Context, err error) error {
	if r.process == nil {
		return err
	}
	defer r.report.close()
	if ctx.Err() != nil {
		r.output.close()
		return context.Cause(ctx)
	}
	waitCtx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	exit, waitErr := r.process.Wait(waitCtx)
	r.output.settle()
	r.output.close()
	startErr := &StartError{Err: err}
	switch {
	case waitErr == nil && r.wentOn && exit.Signal == syscall.SIGKILL && !exit.OutOfMemory: // which is ours
		startErr.Wait = errWentOn
	case waitErr == nil:
		startErr.Exit = &exit
	case waitCtx.Err() == nil: // the driver knows better than the handshake
		startErr.Wait = waitErr
	}
	startErr.Crash = r.report.crash(startErr.Exit, r.output.fatalError())
	startErr.LastLines = r.output.last(startErr.Crash)
	return startErr
}

func (r *processRunner) Diagnose(context.Context) string { return "" }

func (r *processRunner) Stdout() io.ReadCloser { return r.report }

// Stderr is empty: what user code prints is not go-plugin's.
func (r *processRunner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (r *processRunner) Name() string { return "sbx worker" }

func (r *processRunner) ID() string { return r.config.Sandbox }

func (r *processRunner) Wait(ctx context.Context) error {
	_, err := r.process.Wait(ctx)
	return err
}

// Kill is called when the worker has not said that it is ready. One that ends by itself is let, so that how it ended is
// known.
func (r *processRunner) Kill(context.Context) error {
	if r.process != nil {
		patience := settleTime
		if r.report.text() == "" { // it has ended, most likely, and on a busy machine that takes long to show
			patience = exitTime
		}
		ctx, cancel := context.WithTimeout(r.ctx, patience)
		defer cancel()
		_, err := r.process.Wait(ctx)
		r.wentOn = errors.Is(err, context.DeadlineExceeded)
	}
	r.abandon()
	return nil
}

// PluginToHost drops the worker's address: dialling a path that the sandbox chose would let it choose whom we talk to.
func (r *processRunner) PluginToHost(network, address string) (string, string, error) {
	return "unix", "sandbox", nil
}

func (r *processRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// errWentOn is why a worker did not start that said nothing, and lived.
var errWentOn = errors.New("its process did not say that it is ready, and did not end: this happens where package variables or init functions, which run in the sandbox too, close descriptors which they did not open, or run another program in their place (syscall.Exec)")

// StartError says that a worker did not come up, with what it printed last.
type StartError struct {
	Err error
	// Exit is how the process ended; nil if it had to be killed or nobody knows.
	Exit *driver.Exit
	// Wait is why it is not known how the process ended: that its sandbox is gone, say, or that it did not end by itself.
	Wait error
	// Crash is what the Go runtime said when it ended the process; nil if that was not how it ended.
	Crash *Crash
	// LastLines are the last lines that it printed.
	LastLines []string
}

// Shot reports whether somebody killed the worker, which has nothing to do with what it was about to do.
func (e *StartError) Shot() bool {
	return e.Exit != nil && e.Exit.Signal == syscall.SIGKILL && !e.Exit.OutOfMemory && e.Crash == nil
}

func (e *StartError) Error() string {
	text := "the worker did not start"
	if e.Exit != nil {
		text += " (" + e.Exit.String() + ")"
	}
	if e.Crash != nil {
		return text + ": it crashed in a package variable's or init function's code, which runs in the sandbox too: " + e.Crash.String() + printed(e.LastLines)
	}
	// go-plugin's text tells a plugin's author what to do, which does not help here.
	reason, _, _ := strings.Cut(e.Err.Error(), "\n")
	said, unrecognized := strings.CutPrefix(reason, "Unrecognized remote plugin message: ")
	switch {
	case unrecognized && said != "":
		reason = fmt.Sprintf("instead of its handshake it wrote %q", wire.Clip(said, 200))
	case unrecognized && e.Wait != nil:
		reason = e.Wait.Error()
	case unrecognized:
		reason = "it ended before it could serve calls; package variables and init functions run in the sandbox too, main does not"
	case e.Wait != nil:
		reason += ": " + e.Wait.Error()
	}
	return text + ": " + reason + printed(e.LastLines)
}

// printed is how an error's text ends that tells the last lines.
func printed(lastLines []string) string {
	if len(lastLines) == 0 {
		return ""
	}
	return "; last output:\n\t" + strings.Join(lastLines, "\n\t")
}

func (e *StartError) Unwrap() []error {
	if e.Wait == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Wait}
}
