package sbx

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Inputs are counted while the rate is told.
func TestTheRateIsOfWhatRan(t *testing.T) {
	a := &account{run: &run{}, samples: []sample{{time: time.Now()}}}
	var told atomic.Bool
	var counting sync.WaitGroup
	counting.Go(func() {
		for !told.Load() {
			a.run.tally.count(&request{}, true, nil)
		}
	})
	wrong := 0
	for range 100_000 {
		if rate, _ := a.rate(); rate != 0 {
			wrong++
		}
	}
	told.Store(true)
	counting.Wait()
	assert.Zero(t, wrong, "nothing ran: all is from a journal")
}
