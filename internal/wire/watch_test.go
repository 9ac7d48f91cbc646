package wire

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
)

func ping() *wirepb.Message { return &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}} }

// drain receives until the connection ends, and answers while it should.
func drain(c *Conn, answers *atomic.Bool) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
		if answers.Load() {
			c.Send(ping(), nil, nil)
		}
	}
}

func TestASilentSideLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, worker, cut := connect(t)
		var answers, never atomic.Bool
		answers.Store(true)
		go drain(host, &never)
		go drain(worker, &answers)
		lapsed := false
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			host.Watch(ctx, time.Minute, func() { host.Send(ping(), nil, nil) }, func() { lapsed = true })
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.False(t, lapsed, "the other side answers")
		answers.Store(false)
		begin := time.Now()
		<-done
		assert.True(t, lapsed)
		assert.InDelta(t, time.Minute, time.Since(begin), float64(time.Minute/beats))
		cut()
		synctest.Wait()
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _, _ := connect(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		host.Watch(ctx, time.Hour, func() {}, func() { t.Error("lapsed") })
	})
}
