package launch

import (
	"sync/atomic"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// forget frees what a call has. Callers hold mu.
func (w *Worker) forget(call *Pending) {
	delete(w.calls, call.id)
	w.output.returned(call.id)
	if call.slot < ledger.Slots {
		w.slots = append(w.slots, call.slot)
	}
}

// Pending is a call that was sent.
type Pending struct {
	worker  *Worker
	id      uint64
	attempt uint32
	slot    int
	ticket  *wire.Ticket
	done    chan struct{}
	result  *wirepb.Result

	arriving  atomic.Uint64 // the length of a result that comes in chunks; 0 before
	withdrawn bool          // guarded by worker.mu
	progress  *Progress     // guarded by worker.mu; nil if nothing was told
	follower  *atomic.Pointer[Progress]
	begun     bool // set before worker.done is closed

	// what is sent, here because one allocation is cheaper than five
	message  wirepb.Message
	kind     wirepb.Message_Call
	argument wirepb.Body
	sent     wire.Ticket
}

// Go sends a call with its encoded argument. The id and the slot are chosen here. It does not wait.
func (w *Worker) Go(call *wirepb.Call, argument []byte) *Pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	call.Id = w.last
	p := &Pending{worker: w, id: call.GetId(), attempt: call.GetAttempt(), slot: ledger.Slots, done: make(chan struct{})}
	call.Argument, p.kind.Call, p.message.Kind, p.ticket = &p.argument, call, &p.kind, &p.sent
	if w.calls != nil && w.ledger != nil {
		if p.slot = w.slot(); p.slot < ledger.Slots {
			w.ledger.Queue(p.slot, p.id)
		}
	}
	call.Slot = uint32(p.slot) // without one the worker refuses the call
	w.output.began(caller{p.id, p.slot, w.nameOf(call.GetFunction()), call.GetName()})
	// If whatever was sent before was answered, nothing else is to go with this one.
	w.conn.SendTicket(p.ticket, &p.message, &p.argument, argument, len(w.calls) == 0)
	if w.calls != nil {
		w.calls[p.id] = p
	}
	return p
}

// slot returns a free slot of the ledger, or one that does not exist if there is none. Callers hold mu.
func (w *Worker) slot() int {
	if n := len(w.slots); n > 0 {
		slot := w.slots[n-1]
		w.slots = w.slots[:n-1]
		return slot
	}
	if w.unused < ledger.Slots {
		w.unused++
		return w.unused - 1
	}
	return ledger.Slots
}

// maxWithdrawn is how many withdrawn calls a worker may have unconfirmed and still be sent calls to queue.
const maxWithdrawn = 64

// Queues reports whether calls may wait in the worker: only if they can be withdrawn from there.
func (w *Worker) Queues() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ledger != nil && w.withdrawn < maxWithdrawn
}

// Done is closed when the result is there. It stays open if the worker is lost first: select on Worker.Done too.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Answered reports whether the result is there.
func (p *Pending) Answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Arriving returns how many bytes the result has that has begun to arrive, so that the function is known to have returned;
// 0 if none has.
func (p *Pending) Arriving() uint64 { return p.arriving.Load() }

// InOrder is closed when no call that is sent later can overtake this one any more; it is nil if none ever could.
func (p *Pending) InOrder() <-chan struct{} { return p.ticket.Whole() }

// Handed reports whether the call was wholly given to the transport.
func (p *Pending) Handed() bool { return p.worker.conn.Handed(p.ticket) }

// Result returns the result. Call it after Done is closed.
func (p *Pending) Result() *wirepb.Result {
	<-p.done
	return p.result
}

// Begun reports whether user code of the call may have begun. It waits for the worker's end; false is certain.
func (p *Pending) Begun() bool {
	<-p.worker.done
	return p.begun
}

// Running reports whether user code of the call has begun and no result is there, as far as this side can see now: without a ledger,
// whether the call was handed. It does not wait.
func (p *Pending) Running() bool {
	w := p.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil || p.withdrawn || p.result != nil {
		return false
	}
	return w.conn.Handed(p.ticket) && (w.ledger == nil || w.ledger.Claimed(p.slot, p.id))
}

// Withdraw takes the call back if it certainly did not begin, and reports whether it could: then it never begins, and no
// result comes but a refusal that is there already.
func (p *Pending) Withdraw() bool {
	w := p.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.withdrawn:
		return true
	case p.result != nil:
		return p.result.GetRefused() != nil
	case w.calls == nil: // the worker has ended
		return !p.begun
	case w.conn.Abort(p.ticket):
		p.withdrawn = true
		w.forget(p)
		return true
	case w.ledger.Withdraw(p.slot, p.id):
		p.withdrawn = true
		w.withdrawn++
		w.cancel(p)
		return true
	}
	return false
}

// Cancel ends the call's context; a call that waits in the worker is refused.
func (p *Pending) Cancel() { p.worker.cancel(p) }

func (w *Worker) cancel(p *Pending) {
	w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Cancel{Cancel: &wirepb.Cancel{Id: p.id}}}, nil, nil)
}
