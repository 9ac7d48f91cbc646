package sbx

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// sandbox is a sandbox that was started, with its worker: one of the pool, or a [Sandbox]'s.
type sandbox struct {
	id     string
	inner  driver.Sandbox
	worker *launch.Worker // nil if it did not start
	shares bool           // a folder of this machine, for writing; without isolation it has all

	killed   atomic.Bool // the session ended it while it ran
	stopping sync.Mutex
	stopped  bool

	mu       sync.Mutex
	commands map[*commandRun]struct{} // that run
	streams  []*commandStream         // on which none runs
	writing  map[*File]struct{}       // files that are open and may change
}

// startSandbox makes a sandbox and starts its worker. When it fails, nothing is left, or what is returned with the error is to be
// stopped.
func startSandbox(ctx context.Context, backend driver.Session, spec driver.Spec, config launch.Config) (*sandbox, error) {
	inner, err := backend.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	shares := backend.Report().Isolation == driver.NoIsolation || slices.ContainsFunc(spec.Mounts, func(m driver.Mount) bool { return m.Writable })
	sb := &sandbox{id: spec.ID, inner: inner, shares: shares}
	if sb.worker, err = launch.Start(ctx, inner, config); err == nil {
		return sb, nil
	}
	stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if stopErr := inner.Stop(stopCtx); stopErr != nil {
		return sb, errors.Join(err, stopErr)
	}
	return nil, err
}

// Done is closed when the worker is lost.
func (sb *sandbox) Done() <-chan struct{} { return sb.worker.Done() }

// Check asks the worker for a sign of life.
func (sb *sandbox) Check(ctx context.Context) error { return sb.worker.Check(ctx) }

// Queues reports whether calls may wait in the worker.
func (sb *sandbox) Queues() bool { return sb.worker.Queues() }

// Stop kills what runs in the sandbox and frees it. It may be called again after it failed.
func (sb *sandbox) Stop(ctx context.Context) error {
	sb.stopping.Lock()
	defer sb.stopping.Unlock()
	if sb.stopped {
		return nil
	}
	if sb.worker == nil {
		if err := sb.inner.Stop(ctx); err != nil {
			return err
		}
		sb.stopped = true
		return nil
	}
	select {
	case <-sb.worker.Done():
	default:
		sb.killed.Store(true)
		sb.endCommands(ctx)
		sb.endFiles(ctx)
	}
	sb.worker.Drain()
	if err := sb.inner.Stop(ctx); err != nil {
		return err
	}
	sb.worker.Close()
	sb.stopped = true
	return nil
}

// endCommands kills the commands that run, with their groups: a driver may know of the worker alone.
func (sb *sandbox) endCommands(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, wire.Grace) // a worker that does not answer is killed all the same
	defer cancel()
	sb.mu.Lock()
	var kills sync.WaitGroup
	for run := range sb.commands {
		kills.Go(func() {
			_, _ = sb.client().Signal(ctx, &wirepb.CommandSignal{Id: run.id, Kind: &wirepb.CommandSignal_Stop{Stop: true}})
		})
	}
	sb.mu.Unlock()
	kills.Wait()
}

// endFiles has what is being written, and is not whole, removed where that would be left behind.
func (sb *sandbox) endFiles(ctx context.Context) {
	if !sb.shares {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wire.Grace)
	defer cancel()
	_, _ = sb.client().Path(ctx, &wirepb.PathRequest{Kind: &wirepb.PathRequest_EndFiles{EndFiles: true}})
}

// note notes that a command begins, or that it has ended.
func (sb *sandbox) note(run *commandRun, runs bool) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	mark(&sb.commands, run, runs)
}

// noteFile notes that a file was opened which may change, or that it is of no use any more.
func (sb *sandbox) noteFile(f *File, open bool) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	mark(&sb.writing, f, open)
}

// mark puts a key into a set, which need not have been made, or takes it out.
func mark[K comparable](set *map[K]struct{}, key K, in bool) {
	if !in {
		delete(*set, key)
		return
	}
	if *set == nil {
		*set = map[K]struct{}{}
	}
	(*set)[key] = struct{}{}
}

// endGivenUp tells the worker of files that were given up, because their contexts ended, before what comes next is sent: gRPC does so by itself, but a
// moment later, and what was written would come after that.
func (sb *sandbox) endGivenUp() {
	sb.mu.Lock()
	var over []*File
	for f := range sb.writing {
		if f.ctx.Err() != nil {
			over = append(over, f)
		}
	}
	sb.mu.Unlock()
	for _, f := range over {
		f.giveUp()
		sb.noteFile(f, false) // not before: others wait for it, too
	}
}

func (sb *sandbox) String() string { return "sandbox " + sb.id }
