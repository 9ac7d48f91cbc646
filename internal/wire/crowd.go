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
	counts  []uint64 // of the last call
}

// newCrowd returns a crowd that tells of waits of at least wait.
func newCrowd(wait time.Duration) *crowd {
	c := &crowd{wait: wait, samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	c.waited()
	return c
}

// waited returns how long a goroutine that ran since the last call had waited for that, the longest of those that waited long; 0 if none did.
func (c *crowd) waited() time.Duration {
	metrics.Read(c.samples)
	if c.samples[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // this Go version does not count it
	}
	histogram := c.samples[0].Value.Float64Histogram()
	if c.counts == nil {
		c.counts = make([]uint64, len(histogram.Counts))
	}
	longest := 0.0
	for i, count := range histogram.Counts {
		if count > c.counts[i] && histogram.Buckets[i] >= c.wait.Seconds() {
			longest = histogram.Buckets[i]
		}
	}
	copy(c.counts, histogram.Counts)
	return time.Duration(longest * float64(time.Second))
}
