package sbx

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// sandbox is a sandbox of the pool with its worker.
type sandbox struct {
	id     string
	inner  driver.Sandbox
	worker *launch.Worker

	killed   atomic.Bool // the session ended it while it ran
	stopping sync.Mutex
	stopped  bool
}

// startSandbox makes a sandbox and starts its worker. When it fails, nothing is left.
func startSandbox(ctx context.Context, backend driver.Session, spec driver.Spec, config launch.Config) (*sandbox, error) {
	inner, err := backend.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	running, err := launch.Start(ctx, inner, config)
	if err != nil {
		return nil, errors.Join(err, stopForGood(ctx, inner))
	}
	return &sandbox{id: spec.ID, inner: inner, worker: running}, nil
}

// stopForGood stops a sandbox whose worker did not start. It tries again until it has succeeded or ctx ends; then the driver's
// session stops it when that closes.
func stopForGood(ctx context.Context, inner driver.Sandbox) error {
	for {
		stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
		err := inner.Stop(stopCtx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

// Done is closed when the worker is lost.
func (sb *sandbox) Done() <-chan struct{} { return sb.worker.Done() }

// Check asks the worker for a sign of life.
func (sb *sandbox) Check(ctx context.Context) error { return sb.worker.Check(ctx) }

// Queues reports whether calls may wait in the worker.
func (sb *sandbox) Queues() bool { return sb.worker.Queues() }

// Stop kills what runs in the sandbox and frees it. It may be called again after it failed.
func (sb *sandbox) Stop(ctx context.Context) error {
	select {
	case <-sb.worker.Done():
	default:
		sb.killed.Store(true)
	}
	sb.stopping.Lock()
	defer sb.stopping.Unlock()
	if sb.stopped {
		return nil
	}
	sb.worker.Drain()
	if err := sb.inner.Stop(ctx); err != nil {
		return err
	}
	sb.worker.Close()
	sb.stopped = true
	return nil
}

func (sb *sandbox) String() string { return "sandbox " + sb.id }
