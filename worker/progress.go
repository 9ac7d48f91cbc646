package worker

import (
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// progressTime is the time between two messages about one call's progress.
const progressTime = 100 * time.Millisecond

// progress is how far a call has come, as far as that was not sent yet.
type progress struct {
	mu     sync.Mutex
	unsent bool
	done   int64 // the latest, as are total and note
	total  int64
	note   string
	sent   time.Time
	timer  *time.Timer // sends what is unsent, if waits
	waits  bool
	over   bool // the call was answered
}

// Progress takes how far the function has come. The latest counts; it is sent at once, if nothing was lately, or a little later.
func (c *call) Progress(done, total int64, note string) {
	p := &c.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.unsent, p.done, p.total, p.note = true, max(done, 0), max(total, 0), note
	if p.waits {
		return
	}
	if wait := progressTime - time.Since(p.sent); wait > 0 {
		p.wait(c, wait)
		return
	}
	p.send(c)
}

// send sends the latest, or tries again later where the connection is busy. Callers hold mu.
func (p *progress) send(c *call) {
	if c.conn.Offer(p.message(c)) {
		p.unsent, p.sent = false, time.Now()
		return
	}
	p.wait(c, progressTime)
}

// wait has the latest sent later. Callers hold mu.
func (p *progress) wait(c *call, d time.Duration) {
	p.waits = true
	if p.timer != nil {
		p.timer.Reset(d)
		return
	}
	p.timer = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.waits = false; !p.over && p.unsent {
			p.send(c)
		}
	})
}

// end sends what was not sent, before the call's result, and takes nothing more.
func (p *progress) end(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.unsent {
		c.conn.Send(p.message(c), nil, nil)
	}
}

// message is the latest, as it crosses.
func (p *progress) message(c *call) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Progress{Progress: &wirepb.Progress{
		Call: c.message.GetId(), Done: p.done, Total: p.total, Note: wire.Note(p.note),
	}}}
}
