package launch

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// maxWaitingLines is how many bytes of a sandbox's lines wait for the handler before whoever prints more waits too.
	maxWaitingLines = 256 << 10
	// maxWaitingRecords is how many bytes of a sandbox's records wait for the handler before more are dropped. So it is with
	// lines of a sandbox that has ended.
	maxWaitingRecords = 4 << 20
	// maxWaiting is how many bytes of all sandboxes together wait, those that have ended included, before more are dropped.
	maxWaiting = 64 << 20
	// entrySize is about what a waiting entry takes beside its texts.
	entrySize = 500
	// drainTime is how long Close waits for a handler that goes on; for one record it waits for settleTime.
	drainTime = 5 * time.Second
)

// Logs hands what the sandboxes of one session print and log to a handler. It owns one goroutine, which alone calls the
// handler's Handle, so that a slow handler delays nothing but records, and those of one sandbox stay in order; and while the
// handler is asked what it takes, one more, which ends when the handler has answered.
type Logs struct {
	handler slog.Handler
	level   slog.Leveler
	ended   chan struct{} // the goroutine's end

	mu      sync.Mutex
	wake    sync.Cond // something waits, or the end
	waiting []entry
	size    int // of what waits
	handled uint64
	closed  bool          // nothing more is taken
	known   int32         // the lowest level, as the handler said last
	asking  chan struct{} // closed when it has answered again; nil if it isn't asked
}

// entry is a record that waits for the handler, or a note of dropped ones.
type entry struct {
	source  *source
	handler slog.Handler // of the session's own messages; nil in those of sandboxes
	record  slog.Record
	size    int
	line    bool
	dropped *uint64 // nil in a record
}

// source is what one sandbox has in the queue. The nil source drops everything.
type source struct {
	logs    *Logs
	sandbox string

	// guarded by logs.mu
	room    sync.Cond // for lines, or the end
	lines   int       // bytes that wait
	records int
	full    bool    // records are dropped until half of them are handled
	rushed  bool    // lines don't wait any more
	noted   *uint64 // what was dropped since the source's last record, if that is in the queue already
}

// NewLogs returns a Logs that hands on what handler is enabled for, and what has at least level, if that is not nil. Close
// it.
func NewLogs(handler slog.Handler, level slog.Leveler) *Logs {
	l := &Logs{handler: handler, level: level, ended: make(chan struct{}), known: int32(slog.LevelInfo)}
	l.wake.L = &l.mu
	go l.run()
	return l
}

// enabled reports whether a record of level would be taken. It calls the handler.
func (l *Logs) enabled(level slog.Level) bool {
	return (l.level == nil || level >= l.level.Level()) && l.handler.Enabled(context.Background(), level)
}

// lowest is the lowest level that is taken; the highest there is if none is. A handler that does not answer, because it blocks in
// Handle say, is given settleTime; then it is what was last known.
func (l *Logs) lowest() int32 {
	if l == nil {
		return math.MaxInt32
	}
	l.mu.Lock()
	if l.asking == nil {
		asking := make(chan struct{})
		l.asking = asking
		go func() {
			level := int32(math.MaxInt32) // of a handler that ends the goroutine
			defer func() {
				l.mu.Lock()
				l.known, l.asking = level, nil
				l.mu.Unlock()
				close(asking)
			}()
			level = l.ask()
		}()
	}
	asking := l.asking
	l.mu.Unlock()
	select {
	case <-asking:
	case <-time.After(settleTime):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known
}

// ask finds the lowest level that is taken.
func (l *Logs) ask() int32 {
	low, high := int64(math.MinInt32), int64(math.MaxInt32)
	for low < high {
		if middle := low + (high-low)/2; l.enabled(slog.Level(middle)) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return int32(low)
}

// source returns the source of a sandbox.
func (l *Logs) source(sandbox string) *source {
	if l == nil {
		return nil
	}
	s := &source{logs: l, sandbox: sandbox}
	s.room.L = &l.mu
	return s
}

// takesLines reports whether printed lines are of use at all, as far as is known without asking the handler, which may block.
func (s *source) takesLines() bool {
	return s != nil && (s.logs.level == nil || s.logs.level.Level() <= slog.LevelInfo)
}

// line queues a printed line. It waits while too many wait.
func (s *source) line(stream, text string, by caller) {
	r := s.record(time.Now(), slog.LevelInfo, text, slog.String("stream", stream))
	r.AddAttrs(by.attrs()...)
	l := s.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	for s.lines >= maxWaitingLines && !s.rushed && !l.closed {
		s.room.Wait()
	}
	switch {
	case l.closed:
	case s.lines >= maxWaitingRecords || l.size >= maxWaiting:
		s.drop(1)
	default:
		size := len(text) + entrySize
		s.lines += size
		s.push(entry{source: s, record: r, size: size, line: true})
	}
}

// log queues what the worker sent: a record, the number of dropped ones, or both. It never waits.
func (s *source) log(message *wirepb.Log, r slog.Record, size int, by caller) {
	if s == nil {
		return
	}
	record := s.record(r.Time, r.Level, r.Message, by.attrs()...)
	r.Attrs(func(attr slog.Attr) bool {
		record.AddAttrs(attr)
		return true
	})
	size += entrySize
	l := s.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	s.drop(min(message.GetDropped(), math.MaxInt32))
	s.full = s.full || s.records+size > maxWaitingRecords || l.size >= maxWaiting
	switch {
	case message.GetRecord() == nil:
	case s.full:
		s.drop(1)
	default:
		s.records += size
		s.push(entry{source: s, record: record, size: size})
	}
}

// drop notes that n records or lines are missing here. Callers hold logs.mu.
func (s *source) drop(n uint64) {
	switch {
	case n == 0:
	case s.noted != nil:
		*s.noted += n
	default:
		s.push(entry{source: s, dropped: &n})
		s.noted = &n
	}
}

// push appends an entry. Callers hold logs.mu.
func (s *source) push(e entry) {
	s.noted = nil
	s.logs.size += e.size
	s.logs.waiting = append(s.logs.waiting, e)
	s.logs.wake.Signal()
}

// rush lets lines wait no longer: the process has ended, and only so much can be left in its pipes.
func (s *source) rush() {
	if s == nil {
		return
	}
	s.logs.mu.Lock()
	defer s.logs.mu.Unlock()
	s.rushed = true
	s.room.Broadcast()
}

// warn queues a message about the sandbox's output.
func (s *source) warn(text string, attrs ...slog.Attr) {
	if s == nil {
		return
	}
	r := s.record(time.Now(), slog.LevelWarn, text, attrs...)
	s.logs.mu.Lock()
	defer s.logs.mu.Unlock()
	if !s.logs.closed {
		s.push(entry{source: s, record: r})
	}
}

// record makes a record with the sandbox's id, if it is one.
func (s *source) record(at time.Time, level slog.Level, text string, attrs ...slog.Attr) slog.Record {
	r := slog.NewRecord(at, level, text, 0)
	if s.sandbox != "" {
		r.AddAttrs(slog.String("sandbox", s.sandbox))
	}
	r.AddAttrs(attrs...)
	return r
}

// run is the goroutine.
func (l *Logs) run() {
	defer close(l.ended)
	defer l.abandon() // a handler may end the goroutine
	for {
		e, ok := l.next()
		if !ok {
			return
		}
		if e.dropped != nil {
			e.record = e.source.record(time.Now(), slog.LevelWarn,
				"sbx: records were dropped here: they came faster than they were taken", slog.Uint64("dropped", *e.dropped))
		}
		switch {
		case e.handler != nil:
			if e.handler.Enabled(context.Background(), e.record.Level) {
				_ = e.handler.Handle(context.Background(), e.record) // as slog.Logger does
			}
		case l.enabled(e.record.Level):
			_ = l.handler.Handle(context.Background(), e.record)
		}
		l.mu.Lock()
		l.handled++
		l.mu.Unlock()
	}
}

// next waits for the next entry. It returns false when there is none and none will come.
func (l *Logs) next() (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 && !l.closed {
		l.wake.Wait()
	}
	if len(l.waiting) == 0 {
		return entry{}, false
	}
	e := l.waiting[0]
	l.waiting[0] = entry{}
	if l.waiting = l.waiting[1:]; len(l.waiting) == 0 {
		l.waiting = nil
	}
	l.release(e)
	return e, true
}

// release gives an entry's room back. Callers hold mu.
func (l *Logs) release(e entry) {
	s := e.source
	l.size -= e.size
	if s.noted == e.dropped {
		s.noted = nil // what is dropped later belongs to another note
	}
	if !e.line {
		s.records -= e.size
		s.full = s.full && s.records > maxWaitingRecords/2
		return
	}
	if s.lines -= e.size; s.lines <= maxWaitingLines/2 {
		s.room.Broadcast()
	}
}

// Close takes nothing more, and waits until what waits is handled: for drainTime at most, and as long as the handler takes no
// longer than settleTime for a record. What is left then is dropped. Calling it again is safe.
func (l *Logs) Close() {
	l.mu.Lock()
	l.closed = true
	l.wake.Signal()
	l.mu.Unlock()
	end := time.After(drainTime)
	for {
		before := l.progress()
		select {
		case <-l.ended:
			return
		case <-end:
		case <-time.After(settleTime):
			if l.progress() != before {
				continue
			}
		}
		l.abandon()
		return
	}
}

func (l *Logs) progress() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handled
}

// abandon drops what waits, and ends the goroutine as soon as the handler returns.
func (l *Logs) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, e := range l.waiting {
		l.release(e)
	}
	l.waiting = nil
}
