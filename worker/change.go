package worker

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

// changes are the requests that change files now. When the context of one ends, whoever sent it has its error and goes on, while its last step may
// still be under way: what comes next waits for its end, or what was given up would undo it.
type changes struct {
	mu    sync.Mutex
	under map[*change]struct{}
}

type change struct {
	ctx  context.Context
	path string
	done chan struct{}
}

// settleTime is how long what was given up is waited for. One that takes longer is stuck, in a file system that does not answer say, or removes very much.
const settleTime = 10 * time.Second

// begin counts a request as a change until end. It is called before the request does anything.
func (c *changes) begin(ctx context.Context, path string) (end func()) {
	own := &change{ctx: ctx, path: path, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under[own] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.under, own)
		close(own.done)
	}
}

// settle waits until what was given up before is over. It is called before anything is done with files. Cancellations and requests come in the order in
// which they were sent, but handlers run in any: one that was given up itself is to do nothing.
func (c *changes) settle(ctx context.Context) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	given := c.givenUp()
	if len(given) == 0 {
		return nil
	}
	late := time.After(settleTime)
	for _, other := range given {
		select {
		case <-other.done:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-late:
			return refused("wait", other.path, "is still being changed by what was given up; try again later, or stop the sandbox")
		}
	}
	return nil
}

// givenUp returns the changes whose contexts have ended.
func (c *changes) givenUp() (given []*change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.under {
		if other.ctx.Err() != nil {
			given = append(given, other)
		}
	}
	return given
}
