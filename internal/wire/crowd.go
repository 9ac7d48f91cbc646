package wire

import (
	"runtime/metrics"
	"time"
)

// A crowd tells when this process's goroutines wait so long for a processor that messages may be neither sent nor read in time: with
// thousands of them busy that takes minutes. What a timer wakes runs at once, so a timer's goroutine can tell.
type crowd struct {
	wait    time.Duration
	samples []metrics.Sample
	last    uint64
}

// newCrowd returns a crowd that tells of waits of at least wait.
func newCrowd(wait time.Duration) *crowd {
	c := &crowd{wait: wait, samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	c.waited()
	return c
}

// waited reports whether a goroutine that ran since the last call had waited that long.
func (c *crowd) waited() bool {
	metrics.Read(c.samples)
	if c.samples[0].Value.Kind() != metrics.KindFloat64Histogram {
		return false // this Go version does not count it
	}
	histogram := c.samples[0].Value.Float64Histogram()
	var long uint64
	for i, count := range histogram.Counts {
		if histogram.Buckets[i] >= c.wait.Seconds() {
			long += count
		}
	}
	more := long > c.last
	c.last = long
	return more
}
