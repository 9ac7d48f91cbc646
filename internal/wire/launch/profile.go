package launch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// profiling is a profile that was asked for.
type profiling struct {
	stack    bool // of a call, which is short
	arriving bool
	result   *wirepb.Profiled
	done     chan struct{}
}

// Profile asks the worker for a profile: one of runtime/pprof, or "cpu" or "trace", which take as long as duration says.
func (w *Worker) Profile(ctx context.Context, name string, duration time.Duration, debug int) ([]byte, error) {
	return w.profile(ctx, &wirepb.Profile{Name: name, DurationNanos: int64(duration), Debug: uint32(debug)})
}

// Stack returns the stack of the goroutine that runs the call's function, as the runtime prints it; empty if none does, or it is not found.
func (p *Pending) Stack(ctx context.Context) ([]byte, error) {
	return p.worker.profile(ctx, &wirepb.Profile{Call: p.id})
}

func (w *Worker) profile(ctx context.Context, request *wirepb.Profile) ([]byte, error) {
	p := &profiling{stack: request.GetCall() != 0, done: make(chan struct{})}
	w.mu.Lock()
	if w.calls == nil {
		w.mu.Unlock()
		<-w.done
		return nil, w.lost
	}
	if w.profiles == nil {
		w.profiles = map[uint64]*profiling{}
	}
	w.last++
	id := w.last
	request.Id = id
	w.profiles[id] = p
	w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Profile{Profile: request}}, nil, nil)
	w.mu.Unlock()
	select {
	case <-p.done:
	case <-w.done:
		return nil, w.lost
	case <-ctx.Done(): // the answer is dropped when it comes
		w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Cancel{Cancel: &wirepb.Cancel{Id: id}}}, nil, nil)
		return nil, context.Cause(ctx)
	}
	if text := p.result.GetError(); text != "" {
		return nil, errors.New(wire.Clip(text, 1000))
	}
	return p.result.GetProfile().GetData(), nil
}

// profileArrives notes that a profile begins to arrive in chunks. Callers hold mu.
func (w *Worker) profileArrives(profiled *wirepb.Profiled) error {
	p := w.profiles[profiled.GetId()]
	if p == nil || p.arriving {
		return &wire.ProtocolError{Reason: fmt.Sprintf("a profile %d, which was not asked for or has come already", profiled.GetId())}
	}
	if p.stack {
		return &wire.ProtocolError{Reason: fmt.Sprintf("the stack of a call in chunks; it may have %d bytes", wire.MaxCallStack)}
	}
	p.arriving = true
	return nil
}

// profiled takes a profile that has arrived. Callers hold mu.
func (w *Worker) profiled(profiled *wirepb.Profiled) error {
	p := w.profiles[profiled.GetId()]
	if p == nil {
		return &wire.ProtocolError{Reason: fmt.Sprintf("a profile %d, which was not asked for or has come already", profiled.GetId())}
	}
	if n := len(profiled.GetProfile().GetData()); p.stack && n > wire.MaxCallStack {
		return &wire.ProtocolError{Reason: fmt.Sprintf("the stack of a call of %d bytes; it may have %d", n, wire.MaxCallStack)}
	}
	delete(w.profiles, profiled.GetId())
	p.result = profiled
	close(p.done)
	return nil
}
