package launch

import (
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Progress is how far a function says that it has come.
type Progress struct {
	// Done of Total; 0 if that is not known. Neither is negative.
	Done, Total int64
	// Note is as [wire.Note] makes it.
	Note string
	// Time is when it arrived.
	Time time.Time
}

// progress takes what a worker tells. The call may have been withdrawn: then nobody wants to know.
func (w *Worker) progress(told *wirepb.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := w.calls[told.GetCall()]
	if call == nil || call.withdrawn {
		return
	}
	call.progress = &Progress{Done: max(told.GetDone(), 0), Total: max(told.GetTotal(), 0), Note: wire.Note(told.GetNote()), Time: time.Now()}
	if call.follower != nil {
		call.follower.Store(call.progress)
	}
}

// Progress returns the latest that the function has told of its progress; nil if that is nothing. It is not to be changed.
func (p *Pending) Progress() *Progress {
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	return p.progress
}

// Follow has what the function tells stored in latest, too.
func (p *Pending) Follow(latest *atomic.Pointer[Progress]) {
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	p.follower = latest
	if p.progress != nil {
		latest.Store(p.progress)
	}
}
