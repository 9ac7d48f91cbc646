package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

const (
	pendingInputs = 20_000
	idleSandboxes = 16
)

// memory measures what calls and sandboxes take.
func memory(ctx context.Context, b *bench, w *strings.Builder) error {
	heap, stacks, err := pending(ctx)
	if err != nil {
		return err
	}
	w.WriteString("| | |\n| --- | --- |\n")
	fmt.Fprintf(w, "| the session's heap, for each input of a map that waits | %.0f bytes, and %.0f of stacks (%d inputs) |\n", heap, stacks, pendingInputs)
	b.AtMost("heap for a pending input, in bytes", heap, 500)
	for _, v := range variants {
		heap, stacks, resident, err := idle(ctx, v)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "| %s: the session's heap for each idle sandbox | %.1f KiB, and %.1f of stacks (%d sandboxes) |\n", v.name, heap/1024, stacks/1024, idleSandboxes)
		fmt.Fprintf(w, "| %s: resident memory of an idle worker | %.1f MiB, most of it the executable's pages, which workers share |\n", v.name, resident/(1<<20))
		b.AtMost("idle sandbox, "+v.name+": KiB of the session's heap and stacks", (heap+stacks)/1024, 64)
	}
	before, after, err := growth(ctx, b.growth)
	if err != nil {
		return err
	}
	for i, side := range []string{"the session's heap", "the worker's resident memory"} {
		fmt.Fprintf(w, "| %s, before and after %d calls | %.1f MiB, %.1f MiB |\n", side, b.growth, before[i]/(1<<20), after[i]/(1<<20))
		b.AtMost(fmt.Sprintf("memory after %d calls: to before, %s", b.growth, side), after[i]/before[i], 1.05)
	}
	return nil
}

// pending measures inputs of a map that wait for a sandbox.
func pending(ctx context.Context) (heap, stacks float64, err error) {
	session, err := variants[0].open(ctx, sbx.MaxSandboxes(1))
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sleep := session.Function(Sleep)
	if _, err := sleep.Call(ctx, 0); err != nil {
		return 0, 0, err
	}
	heapBefore, stacksBefore := measure.InUse()
	all := make(chan struct{})
	var inputs iter.Seq[time.Duration] = func(yield func(time.Duration) bool) {
		for range pendingInputs {
			if !yield(time.Minute) {
				return
			}
		}
		close(all)
	}
	go func() {
		<-all
		time.Sleep(10 * time.Millisecond) // the last goroutines come to where they wait
		heap, stacks = measure.InUse()
		cancel()
	}()
	for range sleep.MapUnordered(ctx, inputs, sbx.Ahead(pendingInputs+1)) {
	}
	return (heap - heapBefore) / pendingInputs, (stacks - stacksBefore) / pendingInputs, session.Close()
}

// idle measures sandboxes that have nothing to do.
func idle(ctx context.Context, v variant) (heap, stacks, resident float64, err error) {
	session, err := v.open(ctx, sbx.MaxSandboxes(idleSandboxes+1))
	if err != nil {
		return 0, 0, 0, err
	}
	call := session.Function(Resident)
	if _, err := call.Call(ctx, struct{}{}); err != nil { // what there is once, and the first sandbox
		return 0, 0, 0, err
	}
	heapBefore, stacksBefore := measure.InUse()
	if err := session.Prewarm(ctx, idleSandboxes+1); err != nil {
		return 0, 0, 0, err
	}
	heap, stacks = measure.InUse()
	bytes, err := call.Call(ctx, struct{}{})
	if err != nil {
		return 0, 0, 0, err
	}
	return (heap - heapBefore) / idleSandboxes, (stacks - stacksBefore) / idleSandboxes, float64(bytes), session.Close()
}

// growth makes many calls, and returns the memory of both sides before and after.
func growth(ctx context.Context, calls int) (before, after [2]float64, err error) {
	session, err := variants[0].open(ctx, sbx.MaxSandboxes(1), sbx.Concurrency(64))
	if err != nil {
		return before, after, err
	}
	echo, resident := session.Function(Echo), session.Function(Resident)
	data := make([]byte, callSize)
	run := together(64, func(ctx context.Context) error {
		_, err := echo.Call(ctx, data)
		return err
	})
	look := func() (both [2]float64, err error) {
		bytes, err := resident.Call(ctx, struct{}{})
		both[0], _ = measure.InUse()
		both[1] = float64(bytes)
		return both, err
	}
	if err := run(ctx, calls/10); err != nil { // until heaps have their size
		return before, after, err
	}
	if before, err = look(); err != nil {
		return before, after, err
	}
	if err := run(ctx, calls); err != nil {
		return before, after, err
	}
	if after, err = look(); err != nil {
		return before, after, err
	}
	return before, after, session.Close()
}
