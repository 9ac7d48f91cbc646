package sbx

import (
	"context"
	"errors"
	"sync"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/worker"
)

// sandbox is a sandbox of the pool with its worker.
type sandbox struct {
	id     string
	inner  driver.Sandbox
	worker *launch.Worker

	stopping sync.Mutex
	stopped  bool
}

// startSandbox makes a sandbox and starts its worker. When it fails, nothing is left.
func startSandbox(ctx context.Context, backend driver.Session, session string, spec driver.Spec, logs *launch.Logs, output *launch.Writers) (*sandbox, error) {
	inner, err := backend.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	running, err := launch.Start(ctx, inner, launch.Config{
		Session: session, Sandbox: spec.ID, Divert: worker.Diverts(), Logs: logs, Output: output,
	})
	if err != nil {
		stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		return nil, errors.Join(err, inner.Stop(stopCtx))
	}
	return &sandbox{id: spec.ID, inner: inner, worker: running}, nil
}

// Done is closed when the worker is lost.
func (sb *sandbox) Done() <-chan struct{} { return sb.worker.Done() }

// Stop kills what runs in the sandbox and frees it. It may be called again after it failed.
func (sb *sandbox) Stop(ctx context.Context) error {
	sb.stopping.Lock()
	defer sb.stopping.Unlock()
	if sb.stopped {
		return nil
	}
	if err := sb.inner.Stop(ctx); err != nil {
		return err
	}
	sb.worker.Close()
	sb.stopped = true
	return nil
}

func (sb *sandbox) String() string { return "sandbox " + sb.id }
