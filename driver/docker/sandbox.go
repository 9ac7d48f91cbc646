//go:build !sbxworker

package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent/remote"
)

const (
	// makeTime bounds the making of a sandbox by the engine, whatever the caller's context says.
	makeTime = 2 * time.Minute
	// tellTime is how long the engine has to tell how a container ended. Who asks doesn't wait longer.
	tellTime = time.Second
	// removePause is between two looks at whether a container is gone that somebody else removes.
	removePause = 20 * time.Millisecond
)

var errSlow = fmt.Errorf("the engine and the container's first process did not answer within %v; package variables and some init functions run there too", makeTime)

type sandbox struct {
	session *session
	spec    driver.Spec
	token   string        // of its agent
	made    chan struct{} // closed when nobody makes it any more

	stopping chan struct{} // has one entry, of who stops it
	removed  bool          // guarded by stopping

	// Set before made is closed, and not changed afterwards.
	container string // its id; empty if there is none
	end       *end   // nil if there is no container
	agent     *remote.Agent
	attached  *attached
	err       error // why it could not be made

	mu      sync.Mutex
	stopped bool
	begun   bool // StartWorker was called
}

func newSandbox(s *session, spec driver.Spec) *sandbox {
	return &sandbox{session: s, spec: spec, token: rand.Text(), made: make(chan struct{}), stopping: make(chan struct{}, 1)}
}

// make makes the container and waits for its agent. What the engine has been asked for may come into being although nobody waits for the answer any more;
// so it is asked on a goroutine of the session, and if ctx ends, what comes of it is removed there.
func (b *sandbox) make(ctx context.Context, mounts []driver.Mount, volumes []string) error {
	makeCtx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), makeTime, errSlow)
	b.session.tasks.Go(func() {
		defer cancel()
		b.err = b.run(makeCtx, mounts, volumes)
		close(b.made)
	})
	var err error
	select {
	case <-b.made:
		if b.err == nil {
			return nil
		}
		err = b.err
	case <-ctx.Done():
		cancel()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	b.session.tasks.Go(func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
		defer cancel()
		_ = b.Stop(stopCtx) // if this fails, the session's Close is the next to try
	})
	return err
}

// run has the engine run the sandbox's first process.
func (b *sandbox) run(ctx context.Context, mounts []driver.Mount, volumes []string) error {
	worker, err := b.session.stage.ready(ctx, "")
	if err != nil {
		return err
	}
	err = b.runWorker(ctx, worker, mounts, volumes)
	if err == nil || ctx.Err() != nil || !isMissing(err, worker) {
		return mountError(err, mounts)
	}
	// Somebody has removed the volume. The engine made an empty one, which has to go with the container that shows it.
	if err := b.session.engine.remove(ctx, b.container); err != nil {
		return err
	}
	b.session.ends.forget(b.container)
	b.container = ""
	if b.attached != nil {
		_ = b.attached.Close()
	}
	if worker, err = b.session.stage.ready(ctx, worker); err != nil {
		return err
	}
	return mountError(b.runWorker(ctx, worker, mounts, volumes), mounts)
}

func (b *sandbox) runWorker(ctx context.Context, worker string, mounts []driver.Mount, volumes []string) error {
	s := b.session
	socket, err := s.newSocket(b.token)
	if err != nil {
		return err
	}
	defer socket.close()
	// What was asked for must be known, to be removed.
	createCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	defer cancel()
	options := s.container(b, worker, mounts, volumes, socket)
	created, err := s.engine.ContainerCreate(createCtx, options)
	if errdefs.IsNotFound(err) { // somebody has removed the image
		s.images.forget(b.spec.Image)
		if _, err := s.images.find(ctx, b.spec.Image); err != nil {
			return err
		}
		created, err = s.engine.ContainerCreate(createCtx, options)
	}
	if err != nil {
		// The engine has other files than this program, or is a rootless one of another user.
		if socket != nil && (isMissingSource(err, socket.folder) || isForbiddenSource(err, socket.folder)) {
			s.setByStream()
			return b.runWorker(ctx, worker, mounts, volumes)
		}
		return err
	}
	b.container = created.ID
	b.end = s.ends.expect(created.ID)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Before it starts, or what it says first could be lost.
	if b.attached, err = s.engine.attach(ctx, created.ID); err != nil {
		// Podman prepares the container's start here, and does not say what that lacks.
		_, startErr := s.engine.ContainerStart(ctx, created.ID, client.ContainerStartOptions{})
		return errors.Join(fmt.Errorf("attach to the container: %w", err), startErr)
	}
	if _, err := s.engine.ContainerStart(ctx, created.ID, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	if b.agent, err = b.meet(ctx, socket); err != nil {
		return fmt.Errorf("%w%s", err, b.attached.said())
	}
	return nil
}

// isMissing tells whether a container could not start since there was no file at path. The API has no other sign of that than the text.
func isMissing(err error, path string) bool {
	return strings.Contains(err.Error(), path) && strings.Contains(err.Error(), "no such file")
}

// meet waits for the agent, which dials the socket, or speaks on its standard output if it can't.
func (b *sandbox) meet(ctx context.Context, socket *socket) (*remote.Agent, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type meeting struct {
		agent *remote.Agent
		err   error
	}
	byStream, bySocket := make(chan meeting, 1), make(chan meeting, 1)
	streamCtx, loseStream := context.WithCancel(ctx)
	defer loseStream()
	go func() {
		agent, err := remote.Over(streamCtx, b.attached, b.token)
		byStream <- meeting{agent, err}
	}()
	go func() {
		agent, err := socket.accept(ctx)
		bySocket <- meeting{agent, err}
	}()
	select {
	case m := <-byStream:
		cancel()
		if other := <-bySocket; other.agent != nil { // the container has ended meanwhile, or both have come, which no agent does
			_ = other.agent.Close()
		}
		if m.err == nil {
			b.session.setByStream()
		}
		return m.agent, m.err
	case m := <-bySocket:
		loseStream()
		other := <-byStream
		if m.err == nil {
			if other.agent != nil {
				_ = other.agent.Close()
			}
			return m.agent, nil
		}
		if other.agent != nil {
			return other.agent, nil
		}
		return nil, m.err
	}
}

func (s *session) setByStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byStream = true
}

func (b *sandbox) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	b.mu.Lock()
	begun, stopped := b.begun, b.stopped
	b.begun = true
	b.mu.Unlock()
	switch {
	case stopped:
		return nil, fmt.Errorf("docker: sandbox %s: %w", b.spec.ID, driver.ErrStopped)
	case begun:
		return nil, fmt.Errorf("docker: sandbox %s has a worker already", b.spec.ID)
	}
	limits := b.session.limits(b.spec)
	env := goLimits(slices.Concat(b.spec.Env, spec.Env), limits)
	process, err := b.agent.Start(ctx, remote.Start{Env: env, OpenFiles: uint64(limits.OpenFiles), Lost: b.lost})
	if err != nil {
		return nil, fmt.Errorf("docker: sandbox %s: start the worker: %w", b.spec.ID, err)
	}
	return process, nil
}

// lost says how the sandbox ended whose agent ended without a word: with all others, as the kernel ends those of a pid namespace that has lost its first process.
func (b *sandbox) lost(ctx context.Context) (driver.Exit, error) {
	killed := driver.Exit{Code: -1, Signal: sigkill}
	b.mu.Lock()
	stopped := b.stopped
	b.mu.Unlock()
	if stopped {
		return killed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	select {
	case <-b.end.dead:
	case <-ctx.Done():
		return driver.Exit{}, fmt.Errorf("docker: sandbox %s: the connection to its first process has ended, and the engine does not say whether the container has", b.spec.ID)
	}
	killed.OutOfMemory = b.session.ends.outOfMemory(b.end)
	return killed, nil
}

func (b *sandbox) Stop(ctx context.Context) error {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	fail := func(err error) error { return fmt.Errorf("docker: stop sandbox %s: %w", b.spec.ID, err) }
	select {
	case b.stopping <- struct{}{}:
		defer func() { <-b.stopping }()
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
	select {
	case <-b.made:
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
	if b.removed {
		return nil
	}
	if b.container != "" {
		if err := b.session.engine.remove(ctx, b.container); err != nil {
			if b.agent != nil {
				_ = b.agent.Close() // so that its processes end although the engine does nothing
			}
			return fail(err)
		}
		b.session.ends.note(b.container, "die")
		b.session.ends.forget(b.container)
	}
	if b.agent != nil {
		_ = b.agent.Close()
	}
	if b.attached != nil {
		_ = b.attached.Close()
	}
	b.removed = true
	b.session.forget(b)
	return nil
}

// remove kills a container's processes and removes it. It returns when it is gone; one that was gone before is no error.
func (e *engine) remove(ctx context.Context, id string) error {
	for {
		_, err := e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil, errdefs.IsConflict(err): // the engine removes it itself, since it has ended
			if alive, err := e.exists(ctx, id); err == nil && !alive {
				return nil
			}
		default:
			return fmt.Errorf("remove the container %s: %w", id, err)
		}
		select {
		case <-time.After(removePause):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (e *engine) exists(ctx context.Context, id string) (bool, error) {
	_, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return true, err
}
