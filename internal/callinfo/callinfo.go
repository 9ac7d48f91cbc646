// Package callinfo carries what a running function may know of its call, from package worker, which sets it, to
// package sbx, which hands it out.
package callinfo

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Info is what sbx.CallInfo documents, field by field.
type Info struct {
	Function         string
	Call             string
	Attempt          int
	Session, Sandbox string
	Deadline         time.Time
	Metadata         map[string]string
}

// ErrTimeout is sbx.ErrTimeout, which is also the cause of the end of the function's context.
var ErrTimeout = errors.New("function timed out")

type key struct{}

// carrier is a context that carries what is known of the call.
type carrier struct {
	context.Context
	info    Info
	reports Reports
}

func (c *carrier) Value(k any) any {
	if k == (key{}) {
		return c
	}
	return c.Context.Value(k)
}

// Reports takes what a function tells beside its result.
type Reports interface {
	// Logger makes the call's logger.
	Logger() *slog.Logger
	// Progress takes how far the function has come. It never waits.
	Progress(done, total int64, note string)
}

// With returns a context that carries info, and who takes what the function tells; nil if nobody does.
func With(ctx context.Context, info Info, reports Reports) context.Context {
	return &carrier{ctx, info, reports}
}

// From returns what With put into ctx.
func From(ctx context.Context) (Info, bool) {
	if c, ok := ctx.Value(key{}).(*carrier); ok {
		return c.info, true
	}
	return Info{}, false
}

// Logger returns a logger of what With put into ctx; nil if there is none.
func Logger(ctx context.Context) *slog.Logger {
	if c, ok := ctx.Value(key{}).(*carrier); ok && c.reports != nil {
		return c.reports.Logger()
	}
	return nil
}

// Progress tells how far the function has come; nobody, if With put nobody into ctx.
func Progress(ctx context.Context, done, total int64, note string) {
	if c, ok := ctx.Value(key{}).(*carrier); ok && c.reports != nil {
		c.reports.Progress(done, total, note)
	}
}

// Interceptor is sbx.Interceptor.
type Interceptor func(ctx context.Context, info Info, next func(context.Context) error) error

var interceptors = struct {
	sync.RWMutex
	list []Interceptor
}{}

// Intercept adds an interceptor around every function that runs in this process as a worker.
func Intercept(i Interceptor) {
	interceptors.Lock()
	defer interceptors.Unlock()
	interceptors.list = append(interceptors.list, i)
}

var (
	// ErrNextTwice is what next returns when it is called again.
	ErrNextTwice = errors.New("an interceptor called next twice, or after it had returned")
	// ErrNextMissed is the error of an interceptor that has none.
	ErrNextMissed = errors.New("an interceptor returned no error, but did not call next")
	// ErrNextRuns is the error of one that returns none while next runs, and the cause of the end of the call's context.
	ErrNextRuns = errors.New("an interceptor returned before next had")
	// ErrNextPanicked is the error of one that returns none when next has panicked, or has ended its goroutine.
	ErrNextPanicked = errors.New("an interceptor returned no error, but next had panicked or ended its goroutine")
)

// Run runs a function within the interceptors.
func Run(ctx context.Context, info Info, reports Reports, fn func(context.Context) error) error {
	ctx = With(ctx, info, reports)
	interceptors.RLock()
	list := interceptors.list
	interceptors.RUnlock()
	if len(list) == 0 {
		return fn(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var called atomic.Bool
	ended := make(chan struct{})
	next := func(ctx context.Context) error {
		if called.Swap(true) {
			return ErrNextTwice
		}
		defer close(ended)
		return fn(ctx)
	}
	// Whatever the interceptors do, the function does not begin once they have returned, and has ended before Run does.
	defer func() {
		if called.Swap(true) {
			cancel()
			<-ended
		}
	}()
	for i := len(list) - 1; i >= 0; i-- {
		inner := next
		next = func(ctx context.Context) error { return list[i](ctx, info, inner) }
	}
	err := next(ctx)
	if err != nil {
		return err
	}
	if !called.Load() {
		return ErrNextMissed
	}
	select {
	case <-ended:
		return nil
	default:
		return ErrNextRuns
	}
}
