// Command train searches for good hyper-parameters of a small neural network: every combination of learning rate, width
// and seed is one call of [Train] in a sandbox. It shows how a function's own error crosses the wire ([ErrDiverged]:
// some of the learning rates are too high) and how a long function heeds its context.
//
//	go run ./examples/train [-n sandboxes] [-epochs n]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen

func main() {
	sandboxes := flag.Int("n", runtime.NumCPU(), "use at most `n` sandboxes")
	epochs := flag.Int("epochs", 200, "pass `n` times over the data in each run")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *sandboxes, *epochs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, sandboxes, epochs int) (err error) {
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(sandboxes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	train := session.Function(Train, sbx.Timeout(time.Minute))
	results := sweep{}
	for result := range train.MapUnordered(ctx, jobs(epochs)) {
		switch {
		case result.Err == nil:
			results.add(result.Input, result.Output)
		case errors.Is(result.Err, ErrDiverged):
			results.addDiverged(result.Input)
		default:
			return result.Err
		}
	}
	return results.print(os.Stdout)
}

// jobs is the sweep: every combination, made as it is asked for.
func jobs(epochs int) iter.Seq[Job] {
	return func(yield func(Job) bool) {
		for _, rate := range []float64{0.0003, 0.003, 0.03, 0.3, 1, 3} {
			for _, hidden := range []int{2, 8, 32} {
				for seed := range uint64(5) {
					if !yield(Job{LearningRate: rate, Hidden: hidden, Epochs: epochs, Seed: seed}) {
						return
					}
				}
			}
		}
	}
}
