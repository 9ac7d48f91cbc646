package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChangesThatWereGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changes{under: map[*change]struct{}{}}
		ctx, giveUp := context.WithCancel(t.Context())
		end := c.begin(ctx, "/work/f")
		require.NoError(t, c.settle(t.Context()), "it has not been given up")
		giveUp()
		require.ErrorContains(t, c.settle(ctx), "canceled", "it does nothing more")
		begun := time.Now()
		time.AfterFunc(time.Second, end)
		require.NoError(t, c.settle(t.Context()))
		assert.Equal(t, time.Second, time.Since(begun))

		c.begin(ctx, "/work/stuck")
		begun = time.Now()
		err := c.settle(t.Context())
		require.ErrorAs(t, err, new(refusal))
		require.ErrorContains(t, err, "/work/stuck: is still being changed by what was given up")
		assert.Equal(t, settleTime, time.Since(begun))
	})
}

// A command whose start does not end costs those who write what can be executed a moment once, and not each of them.
func TestAStuckStartIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starts{under: map[chan struct{}]time.Time{}}
		s.begin()
		begun := time.Now()
		for range 100 {
			s.settle()
		}
		assert.Equal(t, startTime, time.Since(begun))

		end := s.begin()
		time.AfterFunc(startTime/2, end)
		begun = time.Now()
		s.settle()
		assert.Equal(t, startTime/2, time.Since(begun))
	})
}
