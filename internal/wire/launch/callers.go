package launch

import (
	"log/slog"
	"sync"
)

// returnedCallers is how many calls are remembered after their end: what they started may still log.
const returnedCallers = 256

// caller is a call as records name it. The zero caller is none.
type caller struct {
	id             uint64
	function, call string
}

func (c caller) attrs() []slog.Attr {
	if c.id == 0 {
		return nil
	}
	return []slog.Attr{slog.String("function", c.function), slog.String("call", c.call)}
}

// callers knows which calls a worker runs, for those who attribute its output. Ids count from 1.
type callers struct {
	mutex   sync.Mutex
	running map[uint64]caller
	past    [returnedCallers]caller // by id
}

func (c *callers) began(id uint64, function, call string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.running == nil {
		c.running = map[uint64]caller{}
	}
	c.running[id] = caller{id, function, call}
}

func (c *callers) returned(id uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if by, ok := c.running[id]; ok {
		delete(c.running, id)
		c.past[id%returnedCallers] = by
	}
}

// find returns a call that runs or has returned lately.
func (c *callers) find(id uint64) caller {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if by, ok := c.running[id]; ok {
		return by
	}
	if by := c.past[id%returnedCallers]; by.id == id {
		return by
	}
	return caller{}
}

// sole returns the call that runs, if it is one alone.
func (c *callers) sole() caller {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.running) == 1 {
		for _, by := range c.running {
			return by
		}
	}
	return caller{}
}
