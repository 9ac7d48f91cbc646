package ledger

import (
	"sync"
	"sync/atomic"
)

const (
	// Windows is how many windows there are. What is copied through few of them stays in the processor's cache meanwhile.
	Windows = 8
	// WindowSize is how many bytes each has.
	WindowSize = 256 << 10
	// windowsAt is where they begin: at a page's begin, where pages are not above 32 KiB.
	windowsAt = 32 << 10
)

// windows is who has which window. The session lends them to the worker, and has to know that the worker does not touch one any more
// before something else goes through it; so a loan is queued, claimed and, by the worker, withdrawn, as a call's slot is.
type windows struct {
	loans []atomic.Uint64

	mu     sync.Mutex
	taken  [Windows]bool
	last   uint64          // number of a loan
	unsure [Windows]uint64 // the loan of a window that the worker may still have; 0 if it hasn't
	users  int
	closed bool
}

// A Window is memory that one user of the session has, and lends to the worker piece by piece. Whoever has it uses it in one goroutine.
type Window struct {
	// Memory is WindowSize bytes. Its content is the worker's to change at any time.
	Memory []byte

	ledger *Ledger
	number int
	loan   uint64 // 0 if it is not lent
}

// Take returns a window that nobody has, or nil. The session calls it.
func (l *Ledger) Take() *Window {
	if l == nil {
		return nil
	}
	w := &l.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	for i := range w.taken {
		if loan := w.unsure[i]; loan != 0 && w.loans[i].Load() == entry(loan, withdrawn) {
			w.unsure[i] = 0
		}
		if !w.taken[i] && w.unsure[i] == 0 {
			w.taken[i] = true
			w.users++
			return &Window{Memory: l.window(i), ledger: l, number: i}
		}
	}
	return nil
}

func (l *Ledger) window(number int) []byte {
	begin := windowsAt + number*WindowSize
	return l.memory[begin : begin+WindowSize : begin+WindowSize]
}

// Lend lets the worker use the window once, and returns what it has to be told.
func (w *Window) Lend() (number int, loan uint64) {
	all := &w.ledger.windows
	all.mu.Lock()
	all.last++
	w.loan = all.last
	all.mu.Unlock()
	all.loans[w.number].Store(entry(w.loan, queued))
	return w.number, w.loan
}

// Returned notes that the worker has answered, and so does not use the window any more.
func (w *Window) Returned() { w.loan = 0 }

// Free gives the window up. If it is lent, nobody else gets it before it is certain that the worker does not use it.
func (w *Window) Free() {
	all, l := &w.ledger.windows, w.ledger
	all.mu.Lock()
	all.taken[w.number] = false
	if w.loan != 0 && !all.loans[w.number].CompareAndSwap(entry(w.loan, queued), entry(w.loan, withdrawn)) {
		all.unsure[w.number] = w.loan
	}
	all.users--
	last := all.closed && all.users == 0
	all.mu.Unlock()
	if last {
		unmap(l.memory)
	}
}

// close refuses further users, and reports whether there are none.
func (w *windows) close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.users == 0
}

// Borrow returns the memory of a window that was lent, or nil if it was not, or was taken back. The worker calls it, and giveBack when it does
// not use the memory any more.
func (l *Ledger) Borrow(number int, loan uint64) (memory []byte, giveBack func()) {
	if l == nil || number < 0 || number >= Windows || !l.windows.loans[number].CompareAndSwap(entry(loan, queued), entry(loan, claimed)) {
		return nil, nil
	}
	return l.window(number), func() { l.windows.loans[number].Store(entry(loan, withdrawn)) }
}
