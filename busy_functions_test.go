package sbx_test

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Spin keeps n goroutines busy for a time.
func Spin(_ context.Context, n int, d time.Duration) (int, error) {
	var group sync.WaitGroup
	var sum atomic.Int64
	end := time.Now().Add(d)
	for range n {
		group.Go(func() {
			k := 0
			for time.Now().Before(end) {
				k++
			}
			sum.Add(int64(k))
		})
	}
	group.Wait()
	return int(sum.Load()), nil
}
