package sbx

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/pool"
)

// Hedge has a call that has been running for longer than after, above 0, run a second time at the same time, in another sandbox: the
// first result that comes is the call's, and the other run is cancelled. Time in a queue does not count. It helps where some runs are slow for
// reasons that another run would not meet, and doubles the work of those that are slow by nature.
//
// The second run takes a sandbox only if one is free, or can be started, while no call waits; else it waits for that, and perhaps
// for ever. So no call waits because of it, but for those that come later. It counts as a run for [Retries], which must be 1 or
// more, and for Info.Attempt; there is one at a time, and one at most for each run. A run that fails while the other one goes on is no
// failure yet: the call's error is that of the run which ended last. A call that has ended a sandbox by itself is not hedged, nor is one in a
// sandbox of the program's own (In). [Stats] counts second runs, and those that were faster.
func Hedge(after time.Duration) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if after <= 0 {
			c.errs = append(c.errs, &OptionError{Option: "Hedge", Reason: fmt.Sprintf("is %v; give a time above 0", after)})
		}
		c.hedge = after
	})
}

// lookAgain is the least time after which a call that would be hedged looks again for a free sandbox.
const lookAgain = 10 * time.Millisecond

// errFaster is why the slower run of a call was cancelled.
var errFaster = errors.New("another run of the call was faster")

// hedge is the second run of a request, beside the one that goes on. It is begun once at most, and has then one goroutine, which end
// cancels and waits for.
type hedge struct {
	f      *function
	first  context.CancelCauseFunc // cancels the first run
	cancel context.CancelCauseFunc // cancels the second
	second *request                // belongs to the goroutine until done is closed
	slow   *sandbox                // of the first run
	done   chan struct{}           // closed when the goroutine has ended; nil if it was not begun
	state  atomic.Int32

	// what came of it; set before done is closed
	data     []byte
	sandbox  string
	delivery Delivery
	err      error
}

// The states of a hedge, one of the last two of which is its last.
const (
	hedgeLooks int32 = iota // for a sandbox
	hedgeRuns
	hedgeGaveUp
)

// runOnce runs a request in its lease, and perhaps once more elsewhere at the same time.
func (f *function) runOnce(r *request, l *lease) (data []byte, sandbox string, delivery Delivery, err error) {
	if f.config.hedge == 0 || r.attempt > f.config.retries || r.endings > 0 || f.where != nil {
		return f.send(r, l)
	}
	outer := r.ctx
	h := &hedge{f: f, second: &request{
		index: r.index, id: r.id, args: r.args, class: r.class, calls: r.calls, budget: r.budget,
		attempt: r.attempt + 1, delivery: NotBegun, told: r.told,
	}}
	h.second.ctx, h.cancel = context.WithCancelCause(outer)
	r.hedge = h
	r.ctx, h.first = context.WithCancelCause(outer)
	defer func() { // also where an unmarshaler has ended the goroutine
		h.end()
		r.ctx, r.hedge = outer, nil
	}()
	data, sandbox, delivery, err = f.send(r, l)
	if h.done == nil || h.state.CompareAndSwap(hedgeLooks, hedgeGaveUp) {
		return data, sandbox, delivery, err
	}
	if err == nil {
		h.cancel(errFaster)
	}
	before := h.hasEnded()
	<-h.done // which waits for the second run, unless that is cancelled
	if h.state.Load() == hedgeGaveUp {
		return data, sandbox, delivery, err
	}
	if h.delivery != NotBegun {
		r.attempt++
	}
	switch {
	case err == nil:
		if h.err != nil { // else they have ended at the same time
			f.note(r, h.sandbox, h.delivery, h.err)
		}
		r.ranIn = sandbox
		return data, sandbox, delivery, nil
	case h.err != nil && (before || h.delivery == NotBegun):
		f.note(r, h.sandbox, h.delivery, h.err)
		return nil, sandbox, delivery, err
	}
	f.note(r, sandbox, delivery, err)
	if delivery == NotBegun {
		r.attempt--
	}
	r.cut = h.second.cut
	if h.err == nil {
		f.session.hedgesWon.Add(1)
		r.sentTo.Store(h.second.sentTo.Load())
		r.ranIn = h.sandbox
	}
	return h.data, h.sandbox, h.delivery, h.err
}

// begin begins the second run, of a call that is slow in sb.
func (h *hedge) begin(sb *sandbox) {
	h.slow, h.done = sb, make(chan struct{})
	h.err, h.delivery = errors.New("an unmarshaler called runtime.Goexit"), Failed // unless it returns
	go func() {
		defer close(h.done)
		l := h.lease()
		if l == nil || !h.state.CompareAndSwap(hedgeLooks, hedgeRuns) {
			h.state.Store(hedgeGaveUp)
			if l != nil {
				h.second.budget.giveBack()
				l.Release(true)
			}
			return
		}
		h.f.session.hedged.Add(1)
		h.data, h.sandbox, h.delivery, h.err = h.f.send(h.second, l)
		if h.delivery == NotBegun {
			h.second.budget.giveBack()
		}
		if h.err == nil {
			h.first(errFaster)
		}
	}()
}

func (h *hedge) hasEnded() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// lease waits for a sandbox that is free, and takes one from the budget with it. It returns nil when the second run is cancelled, or
// the budget is used up.
func (h *hedge) lease() *lease {
	ctx, sandboxes := h.second.ctx, h.f.sandboxes()
	for {
		l, opening := sandboxes.Spare(*h.second.class, h.slow)
		switch {
		case l != nil && !h.alive(l):
			l.Release(false)
		case l != nil && h.second.budget.take():
			return l
		case l != nil:
			l.Release(true)
			return nil
		case opening != nil:
			select {
			case <-opening:
				continue // before it is used otherwise
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-time.After(max(h.f.config.hedge, lookAgain)):
		case <-ctx.Done():
			return nil
		}
	}
}

// alive reports whether a sandbox that may have been idle for long is of use.
func (h *hedge) alive(l *lease) bool {
	ctx, cancel := context.WithTimeout(h.second.ctx, pool.CheckTime)
	defer cancel()
	return l.Member().Check(ctx) == nil || h.second.ctx.Err() != nil
}

// end ends the second run, if there is one.
func (h *hedge) end() {
	h.cancel(errFaster)
	h.first(errFaster)
	if h.done != nil {
		<-h.done
	}
}
