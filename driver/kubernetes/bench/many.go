package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/measure"
)

// many measures sandboxes that are there at the same time: what each takes of the program, and how long they take to come and to go.
func (b *bench) many(ctx context.Context, w *strings.Builder) error {
	session, err := b.open(ctx, b.driver(nil), b.sandboxes+1)
	if err != nil {
		return err
	}
	defer session.Close()
	if err := session.Prewarm(ctx, 1); err != nil { // what there is once
		return err
	}
	heapBefore, stacksBefore := measure.InUse()
	before := runtime.NumGoroutine()
	began := time.Now()
	if err := session.Prewarm(ctx, b.sandboxes+1); err != nil {
		return err
	}
	started := time.Since(began)
	n := float64(b.sandboxes)
	heap, stacks := measure.InUse()
	goroutines := float64(runtime.NumGoroutine()-before) / n
	began = time.Now()
	if err := session.Close(); err != nil {
		return err
	}
	fmt.Fprintf(w, `%d sandboxes at the same time, on a cluster whose one node this machine is.

| | for each |
| --- | --- |
| until they are there | %s ms |
| Close, until the cluster has none of them | %s ms |
| the session's heap | %s KiB |
| stacks | %s KiB |
| goroutines | %s |
`, b.sandboxes, measure.Short(float64(started.Milliseconds())/n), measure.Short(float64(time.Since(began).Milliseconds())/n),
		measure.Short((heap-heapBefore)/n/1024), measure.Short((stacks-stacksBefore)/n/1024), measure.Short(goroutines))
	return nil
}
