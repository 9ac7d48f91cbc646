//go:build !sbxworker

package docker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// Pauses between attempts to hear the engine's events.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// ends are how the session's containers end, as the engine tells: by one stream of its events.
type ends struct {
	engine  *engine
	session string
	logger  *slog.Logger

	mu sync.Mutex
	of map[string]*end // by the container's id
}

// end is of one container.
type end struct {
	dead chan struct{} // closed when it has ended

	ended       bool // guarded by ends.mu, as is:
	outOfMemory bool
}

// expect begins to note how a container ends. forget ends that.
func (e *ends) expect(id string) *end {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &end{dead: make(chan struct{})}
	e.of[id] = c
	return c
}

func (e *ends) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of, id)
}

// outOfMemory reports whether the engine has said so of a container.
func (e *ends) outOfMemory(c *end) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.outOfMemory
}

func (e *ends) note(id string, action events.Action) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.of[id]
	if c == nil {
		return
	}
	switch action {
	case events.ActionOOM:
		c.outOfMemory = true
	case events.ActionDie, events.ActionDestroy:
		if !c.ended {
			c.ended = true
			close(c.dead)
		}
	}
}

// watch hears the engine's events until ctx ends, and again when the engine was gone.
func (e *ends) watch(ctx context.Context) {
	since, pause := time.Now(), firstPause
	for ctx.Err() == nil {
		result := e.engine.Events(ctx, client.EventsListOptions{
			Since:   fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()),
			Filters: filter("type", string(events.ContainerEventType)).Add("label", labelSession+"="+e.session),
		})
		for open := true; open; {
			select {
			case message := <-result.Messages:
				e.note(message.Actor.ID, message.Action)
				since, pause = time.Unix(0, message.TimeNano), firstPause
			case err := <-result.Err:
				open = false
				e.logger.Debug("docker: the engine tells no events any more", slog.Any("error", err))
			}
		}
		e.look(ctx)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, lastPause)
	}
}

// look finds out what has ended while no events came.
func (e *ends) look(ctx context.Context) {
	e.mu.Lock()
	var open []string
	for id, c := range e.of {
		if !c.ended {
			open = append(open, id)
		}
	}
	e.mu.Unlock()
	for _, id := range open {
		if ctx.Err() != nil {
			return
		}
		if alive, err := e.engine.isAlive(ctx, id); err == nil && !alive {
			e.note(id, events.ActionDie)
		}
	}
}

// isAlive reports whether a container's first process runs, or has not been started yet.
func (e *engine) isAlive(ctx context.Context, id string) (bool, error) {
	result, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	state := result.Container.State
	return state == nil || state.Status == "created" || state.Running || state.Paused, nil
}
