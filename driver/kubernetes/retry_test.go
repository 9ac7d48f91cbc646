package kubernetes

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pause pauses
		for _, want := range []time.Duration{50, 100, 200, 400, 800, 1600, 2000, 2000} {
			begin := time.Now()
			assert.True(t, pause.wait(t.Context()))
			assert.Equal(t, want*time.Millisecond, time.Since(begin))
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		assert.False(t, pause.wait(ended))
		assert.Zero(t, time.Since(begin))
	})
}
