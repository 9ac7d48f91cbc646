package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx"
)

// maxFlat is what a map's client may have of heap, in MiB, whatever the number of inputs.
const maxFlat = 64

// flat measures the heap of this program in a long map of empty calls.
func flat(ctx context.Context, b *bench, w *strings.Builder) error {
	session, err := variants[1].open(ctx, sbx.MaxSandboxes(2))
	if err != nil {
		return err
	}
	runtime.GC()
	began, top := time.Now(), sampleHeap()
	done := 0
	for _, err := range session.Function(Empty).Map(ctx, repeat(struct{}{}, b.inputs)) {
		if err != nil {
			return err
		}
		done++
	}
	took, most := time.Since(began), top()
	if done != b.inputs {
		return fmt.Errorf("%d results of %d inputs", done, b.inputs)
	}
	fmt.Fprintf(w, "A map of %d empty calls over two local sandboxes took %v, %.0f inputs/s. The session's program had at most %.1f MiB of heap, free and unused parts included.\n",
		b.inputs, took.Round(time.Second), float64(done)/took.Seconds(), most/(1<<20))
	b.AtMost("heap at the most during a map, in MiB", math.Ceil(most/(1<<20)), maxFlat)
	return session.Close()
}

// sampleHeap looks at the memory of the heap a hundred times a second, until it is asked for the most that it saw, in bytes.
func sampleHeap() (top func() float64) {
	stop := make(chan struct{})
	var most uint64
	var sampling sync.WaitGroup
	sampling.Go(func() {
		samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			metrics.Read(samples)
			var now uint64
			for _, sample := range samples {
				now += sample.Value.Uint64()
			}
			most = max(most, now)
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	})
	return func() float64 {
		close(stop)
		sampling.Wait()
		return float64(most)
	}
}
