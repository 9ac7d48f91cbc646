//go:build !sbxworker

package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sandboxfn/sbx/driver"
)

// A session is one of the driver's users. It runs a goroutine that hears the engine's events, and one for each sandbox that is being made or
// removed; Close ends them and waits for them.
type session struct {
	driver  dockerDriver
	spec    driver.SessionSpec
	engine  *engine
	report  driver.Report
	images  *images
	stage   *stage
	ends    *ends
	sockets *sockets // nil where sandboxes can't be reached by them
	stop    context.CancelFunc
	tasks   sync.WaitGroup // what ends by itself, or with stop

	closing chan struct{} // has one entry, of who closes
	settled bool          // it is closed; guarded by closing

	mu        sync.Mutex
	closed    bool
	byStream  bool // sandboxes can't be reached by sockets, as one has shown
	sandboxes map[*sandbox]struct{}
}

// Open connects to the engine, and brings image and worker there.
func (d dockerDriver) Open(ctx context.Context, spec driver.SessionSpec) (_ driver.Session, err error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	engine, err := find(ctx, d.Options)
	if err != nil {
		return nil, err
	}
	s := &session{
		driver: d, spec: spec, engine: engine, report: engine.report(d.Options),
		images:  &images{engine: engine, pull: d.Pull, logger: spec.Logger, seen: map[string]*sighting{}},
		ends:    &ends{engine: engine, session: spec.ID, logger: spec.Logger, of: map[string]*end{}},
		closing: make(chan struct{}, 1), sandboxes: map[*sandbox]struct{}{},
	}
	events, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.tasks.Go(func() { s.ends.watch(events) })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	worker, err := spec.Worker(ctx, engine.platform())
	if err != nil {
		return nil, err
	}
	s.sweep(ctx)
	if _, err := s.images.find(ctx, d.Image); err != nil {
		return nil, fmt.Errorf("docker: open session %s: %w", spec.ID, err)
	}
	if s.stage, err = s.newStage(worker); err != nil {
		return nil, fmt.Errorf("docker: open session %s: read the worker: %w", spec.ID, err)
	}
	if _, err := s.stage.ready(ctx, ""); err != nil {
		return nil, fmt.Errorf("docker: open session %s: %w", spec.ID, err)
	}
	if s.sockets, err = makeSockets(ctx, engine, spec.Logger); err != nil {
		return nil, fmt.Errorf("docker: open session %s: %w", spec.ID, err)
	}
	s.byStream = d.streams || s.sockets == nil
	return s, nil
}

func (s *session) Report() driver.Report { return s.report }

func (s *session) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	fail := func(err error) (driver.Sandbox, error) {
		return nil, fmt.Errorf("docker: create sandbox %s: %w", spec.ID, err)
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return fail(fmt.Errorf("session is %w", driver.ErrStopped))
	}
	if err := s.report.Check(spec.Limits); err != nil {
		return fail(err)
	}
	mounts, err := s.mounts(spec.Mounts)
	if err != nil {
		return fail(err)
	}
	if spec.Image == "" {
		spec.Image = s.driver.Image
	}
	volumes, err := s.images.find(ctx, spec.Image)
	if err != nil {
		return fail(err)
	}
	b := newSandbox(s, spec)
	s.mu.Lock()
	closed = s.closed // meanwhile
	if !closed {
		s.sandboxes[b] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		return fail(fmt.Errorf("session is %w", driver.ErrStopped))
	}
	if err := b.make(ctx, mounts, volumes); err != nil {
		return fail(err)
	}
	return b, nil
}

// forget is called when nothing of a sandbox is left.
func (s *session) forget(b *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sandboxes, b)
}

func (s *session) Close(ctx context.Context) error {
	select {
	case s.closing <- struct{}{}:
		defer func() { <-s.closing }()
	case <-ctx.Done():
		return fmt.Errorf("docker: close session %s: %w", s.spec.ID, context.Cause(ctx))
	}
	if s.settled {
		return nil
	}
	s.mu.Lock()
	s.closed = true
	left := slices.Collect(maps.Keys(s.sandboxes))
	s.mu.Unlock()
	if err := driver.StopAll(ctx, left); err != nil {
		return err
	}
	s.stop()
	ended := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("docker: close session %s: %w", s.spec.ID, context.Cause(ctx))
	}
	if err := s.sockets.close(); err != nil {
		return fmt.Errorf("docker: close session %s: %w", s.spec.ID, err)
	}
	s.stage.close()
	_ = s.engine.Close()
	s.settled = true
	return nil
}
