// Package ledger is how session and worker agree on which calls have begun, in memory that both share and that outlives
// the worker, whatever ends it. Drivers make the file, packages worker and launch map it.
//
// Each call that is on its way has a slot. The session writes there that the call is queued; the worker claims it just
// before user code runs, or the session withdraws it, whichever comes first: a compare-and-swap decides, so both always
// know the same. After the worker's end, what is not claimed certainly did not begin.
//
// A claim costs nothing that can be measured beside a call. The alternatives cost a system call for each call (a pipe that
// the session drains) or a message that must arrive before the call may begin (grants), and neither lets the session take
// back at once what waits in a worker.
//
// The contents of long files pass through [Window]s of the same memory, which spares them two ways through a socket.
//
// Both sides also count there while they are crowded: when user code keeps thousands of goroutines busy, those that send and
// read messages wait minutes for their turn, and silence says nothing.
package ledger

import (
	"sync/atomic"
	"unsafe"
)

// Slots is how many calls can be on their way to one worker at a time.
const Slots = 2048

// words is how many numbers the file begins with: the slots, the two counts of being crowded, and the loans of the windows.
const words = Slots + 2 + Windows

// Size is the length of the file in bytes.
const Size = windowsAt + Windows*WindowSize

// The states of a slot, in its lowest bits; above them is the call's id.
const (
	queued = 1 + iota
	claimed
	withdrawn
	stateBits = 2
)

func entry(id, state uint64) uint64 { return id<<stateBits | state }

// Ledger is one side's view. Its methods may be called at the same time, but for Close. On a nil Ledger every claim
// succeeds, nothing can be withdrawn, and nobody is crowded.
type Ledger struct {
	slots           []atomic.Uint64
	session, worker *atomic.Uint64 // counts of being crowded
	memory          []byte         // what all of them lie in

	windows windows
}

// Queue notes that a call is sent. The session calls it, for a slot that no other call has.
func (l *Ledger) Queue(slot int, id uint64) {
	if l != nil {
		l.slots[slot].Store(entry(id, queued))
	}
}

// Withdraw takes a call back that was not claimed, and reports whether it could: then it did not begin and never will. Garbage
// in the slot counts as a claim; a worker that writes back what the session wrote has its own calls run again, and no others.
func (l *Ledger) Withdraw(slot int, id uint64) bool {
	return l != nil && slot < len(l.slots) && l.slots[slot].CompareAndSwap(entry(id, queued), entry(id, withdrawn))
}

// Claim is the worker's begin of a call. It returns false if the session has withdrawn it, or slot is none.
func (l *Ledger) Claim(slot int, id uint64) bool {
	return l == nil || slot < len(l.slots) && l.slots[slot].CompareAndSwap(entry(id, queued), entry(id, claimed))
}

// Claimed reports whether the worker has claimed a call.
func (l *Ledger) Claimed(slot int, id uint64) bool {
	return slot < len(l.slots) && l.slots[slot].Load() == entry(id, claimed)
}

// SessionCrowded notes that the session is crowded, if it is, and returns a count that grows while the worker is.
func (l *Ledger) SessionCrowded(ours bool) (worker uint64) {
	if l == nil {
		return 0
	}
	return crowded(l.session, l.worker, ours)
}

// WorkerCrowded is SessionCrowded for the other side.
func (l *Ledger) WorkerCrowded(ours bool) (session uint64) {
	if l == nil {
		return 0
	}
	return crowded(l.worker, l.session, ours)
}

func crowded(own, other *atomic.Uint64, is bool) uint64 {
	if is {
		own.Add(1)
	}
	return other.Load()
}

// Close unmaps the memory, when no window is in use any more. No other method may be called any more.
func (l *Ledger) Close() {
	if l != nil && l.windows.close() {
		unmap(l.memory)
	}
}

// over returns the ledger in memory, which is Size bytes long and mapped at a page's begin.
func over(memory []byte) *Ledger {
	all := unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(memory))), words)
	l := &Ledger{slots: all[:Slots], session: &all[Slots], worker: &all[Slots+1], memory: memory}
	l.windows.loans = all[Slots+2:]
	return l
}
