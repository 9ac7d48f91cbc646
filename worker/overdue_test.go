package worker

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sentFrames is a stream that keeps what is sent.
type sentFrames chan *wirepb.Frame

func (s sentFrames) Send(f *wirepb.Frame) error { s <- f; return nil }
func (sentFrames) Recv() (*wirepb.Frame, error) { return nil, io.EOF }

// In a process with many busy goroutines a context ends later than its time: here it takes five seconds.
func TestAFunctionIsNotOverdueBeforeItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frames := make(sentFrames, 1)
		exited := make(chan string, 1)
		d := &dispatch{
			conn: wire.NewConn(frames, nil), calls: map[uint64]*call{}, records: &records{},
			server: &server{exit: func(why string) { exited <- why }},
		}
		defer d.conn.Close()
		ctx, end := context.WithCancelCause(t.Context())
		c := &call{dispatch: d, message: &wirepb.Call{Id: 1}, ctx: ctx, goroutine: "goroutine "}
		d.calls[1] = c
		c.overdue()
		time.Sleep(5 * time.Second)
		require.Empty(t, frames, "the function does not know that its time is up")
		end(callinfo.ErrTimeout)
		time.Sleep(wire.Grace - time.Nanosecond)
		require.Empty(t, frames, "it has a second to return")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, frames, 1)
		timedOut := (<-frames).GetMessages()[0].GetResult().GetTimedOut()
		assert.True(t, timedOut.GetRunning())
		assert.False(t, timedOut.GetDeadline(), "it was the function's own time, and not the caller's deadline")
		time.Sleep(doomTime)
		assert.Equal(t, wire.FunctionHeld, <-exited)
	})
}
