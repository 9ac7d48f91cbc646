package launch

import (
	"log/slog"
	"sync"

	"github.com/sandboxfn/sbx/internal/ledger"
)

// returnedCallers is how many calls are remembered after their end: what they started may still log.
const returnedCallers = 256

// caller is a call as records name it. The zero caller is none.
type caller struct {
	id             uint64
	slot           int // in the ledger
	function, call string
}

func (c caller) attrs() []slog.Attr {
	if c.id == 0 {
		return nil
	}
	return []slog.Attr{slog.String("function", c.function), slog.String("call", c.call)}
}

// callers knows which calls a worker has, for those who attribute its output. Ids count from 1.
type callers struct {
	mutex  sync.Mutex
	sent   map[uint64]caller
	past   [returnedCallers]caller // by id
	ledger *ledger.Ledger          // tells which of those sent have begun; nil if there is none
}

// attribute sets the ledger, and takes it away before it is closed.
func (c *callers) attribute(l *ledger.Ledger) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.ledger = l
}

func (c *callers) began(by caller) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.sent == nil {
		c.sent = map[uint64]caller{}
	}
	c.sent[by.id] = by
}

func (c *callers) returned(id uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if by, ok := c.sent[id]; ok {
		delete(c.sent, id)
		c.past[id%returnedCallers] = by
	}
}

// find returns a call that was sent or has returned lately.
func (c *callers) find(id uint64) caller {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if by, ok := c.sent[id]; ok {
		return by
	}
	if by := c.past[id%returnedCallers]; by.id == id {
		return by
	}
	return caller{}
}

// sole returns the call that runs, if it is one alone. Those that wait in the worker don't count.
func (c *callers) sole() (sole caller) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, by := range c.sent {
		switch {
		case c.ledger != nil && !c.ledger.Claimed(by.slot, by.id):
		case sole.id != 0:
			return caller{}
		default:
			sole = by
		}
	}
	return sole
}
