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
