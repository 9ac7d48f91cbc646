package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

const bigValue = 64 << 20

// values measures big arguments and results, and what they cost small calls that share the sandbox.
func values(ctx context.Context, b *bench, w *strings.Builder) error {
	sessions, end, err := open(ctx)
	if err != nil {
		return err
	}
	contenders := []measure.Contender{b.peers.raw(bigValue), b.peers.unary(bigValue, 1)}
	data := make([]byte, bigValue)
	for i := range data {
		data[i] = byte(i >> 12)
	}
	for _, v := range variants {
		echo := sessions[v.name].Function(Echo)
		contenders = append(contenders, measure.Contender{Name: v.name, Run: together(1, func(ctx context.Context) error {
			result, err := echo.Call(ctx, data)
			if err == nil && len(result) != len(data) {
				err = errors.New("the value came back with another length")
			}
			return err
		})})
	}
	rounds := b.Rounds
	b.Rounds = min(rounds, 5) // of which each takes its time
	took, err := b.Contest(ctx, contenders)
	b.Rounds = rounds
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "An argument of %d MiB that comes back as the result. The raw socket carries the same bytes there and back, without a copy more than it needs.\n\n", bigValue>>20)
	measure.Compare(w, contenders, took, time.Millisecond, "raw echo", "gRPC unary")
	for _, v := range variants {
		b.AtLeast(fmt.Sprintf("%d MiB, %s: rate to a raw socket's", bigValue>>20, v.name), took["raw echo"]/took[v.name], 0.5)
	}
	return errors.Join(b.beside(ctx, w, data), giant(ctx, w), end())
}

// giant tells what the longest value takes beside itself.
func giant(ctx context.Context, w *strings.Builder) error {
	session, err := variants[0].open(ctx, sbx.MaxSandboxes(1))
	if err != nil {
		return err
	}
	data := make([]byte, 1<<30-16) // and a header
	for i := 0; i < len(data); i += 4096 {
		data[i] = 1 // or it takes no memory
	}
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // forget the peak
		return err
	}
	before, err := peak()
	if err != nil {
		return err
	}
	began := time.Now()
	result, err := session.Function(Echo).Call(ctx, data)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if len(result) != len(data) || result[len(result)/4096*4096-4096] != 1 {
		return errors.New("the value came back as another")
	}
	after, err := peak()
	if err != nil {
		return err
	}
	worker, err := session.Function(Peak).Call(ctx, struct{}{})
	if err != nil {
		return err
	}
	const gib = 1 << 30
	fmt.Fprintf(w, "\nAn argument of 1 GiB that comes back takes %.1f s. The session has at most %.2f GiB more than before, its own argument not among them; the worker has at most %.2f GiB.\n",
		took.Seconds(), float64(after-before)/gib, float64(worker)/gib)
	return session.Close()
}

// beside measures small calls in a sandbox to which a big value is always on its way.
func (b *bench) beside(ctx context.Context, w *strings.Builder, data []byte) error {
	session, err := variants[0].open(ctx, sbx.MaxSandboxes(1), sbx.Concurrency(2))
	if err != nil {
		return err
	}
	echo := session.Function(Echo)
	small := func() error {
		_, err := echo.Call(ctx, data[:callSize])
		return err
	}
	alone, err := medianOf(200, small)
	if err != nil {
		return err
	}
	var ended atomic.Bool
	bigs := make(chan error, 1)
	go func() {
		for !ended.Load() {
			if _, err := echo.Call(ctx, data); err != nil {
				bigs <- err
				return
			}
		}
		bigs <- nil
	}()
	together, err := medianOf(200, small)
	ended.Store(true)
	if err := errors.Join(err, <-bigs); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nA call of %d bytes takes %s µs in a sandbox that has nothing else to do, and %s µs while values of %d MiB go there and back, the median of 200.\n",
		callSize, measure.Short(float64(alone)/1e3), measure.Short(float64(together)/1e3), bigValue>>20)
	return session.Close()
}

func medianOf(n int, do func() error) (time.Duration, error) {
	taken := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		taken = append(taken, time.Since(began))
	}
	return measure.Median(taken), nil
}
