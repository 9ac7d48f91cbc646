package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

const (
	bigFile   = 1 << 30
	bigOutput = 256 << 20
	burst     = 50
)

// own measures sandboxes of the program's own: commands beside os/exec, files beside cp, and many starts at once.
func own(ctx context.Context, b *bench, w *strings.Builder) error {
	session, err := sbx.Open(ctx, sbx.Limit(sbx.Resources{DiskMiB: 2*bigFile>>20 + 64})) // a file is written beside the one that it replaces
	if err != nil {
		return err
	}
	sandbox := session.Sandbox()
	err = sandbox.Start(ctx)
	for _, part := range []func(context.Context, *bench, *strings.Builder, *sbx.Sandbox) error{commands, output, files} {
		if err == nil {
			err = part(ctx, b, w, sandbox)
		}
	}
	if err == nil {
		err = starts(ctx, b, w, session)
	}
	return errors.Join(err, session.Close())
}

// commands measures what a short command costs.
func commands(ctx context.Context, b *bench, w *strings.Builder, sandbox *sbx.Sandbox) error {
	contenders := []measure.Contender{
		{Name: "os/exec", Run: together(1, func(ctx context.Context) error { return exec.CommandContext(ctx, "/bin/true").Run() })},
		{Name: "sbx, local", Run: together(1, func(ctx context.Context) error { return sandbox.CommandContext(ctx, "/bin/true").Run() })},
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	w.WriteString("A command that does nothing, one at a time: on the host, and in a warm sandbox.\n\n")
	measure.Compare(w, contenders, took, time.Millisecond, "os/exec")
	b.AtMost("command, sbx, local: to os/exec", took["sbx, local"]/took["os/exec"], 1.5)
	return nil
}

// output measures how fast a command's output comes.
func output(ctx context.Context, b *bench, w *strings.Builder, sandbox *sbx.Sandbox) error {
	const size = "268435456" // bigOutput
	contenders := []measure.Contender{
		{Name: "os/exec", Run: together(1, func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, "head", "-c", size, "/dev/zero")
			cmd.Stdout = struct{ io.Writer }{io.Discard}
			return cmd.Run()
		})},
		{Name: "sbx, local", Run: together(1, func(ctx context.Context) error {
			cmd := sandbox.CommandContext(ctx, "head", "-c", size, "/dev/zero")
			cmd.Stdout = io.Discard
			return cmd.Run()
		})},
	}
	took, err := b.few(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d MiB that a command writes to a pipe.\n\n", bigOutput>>20)
	measure.Compare(w, contenders, took, time.Millisecond, "os/exec")
	return nil
}

// files measures what a long file costs, in memory on both sides.
func files(ctx context.Context, b *bench, w *strings.Builder, sandbox *sbx.Sandbox) error {
	folder, err := os.MkdirTemp("/dev/shm", "sbx-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	from, to := filepath.Join(folder, "from"), filepath.Join(folder, "to")
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer random.Close()
	file, err := os.Create(from)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(file, random, bigFile); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	contenders := []measure.Contender{
		{Name: "cp", Run: together(1, func(ctx context.Context) error { return exec.CommandContext(ctx, "cp", from, to).Run() })},
		{Name: "CopyTo", Run: together(1, func(ctx context.Context) error { return sandbox.CopyTo(ctx, from, "file") })},
		{Name: "CopyFrom", Run: together(1, func(ctx context.Context) error { return sandbox.CopyFrom(ctx, "file", to) })},
	}
	took, err := b.few(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nA file of %d MiB, from memory to memory: by cp on the host, and with its checksum into a sandbox and out of it.\n\n", bigFile>>20)
	measure.Compare(w, contenders, took, time.Millisecond, "cp")
	for _, way := range []string{"CopyTo", "CopyFrom"} {
		b.AtLeast(fmt.Sprintf("file of 1 GiB, %s: rate to cp's", way), took["cp"]/took[way], 0.5)
	}
	return sandbox.Remove(ctx, "file")
}

// few is a contest of what takes its time.
func (b *bench) few(ctx context.Context, contenders []measure.Contender) (map[string]float64, error) {
	rounds := b.Rounds
	b.Rounds = min(rounds, 5)
	defer func() { b.Rounds = rounds }()
	return b.Contest(ctx, contenders)
}

// starts measures what it costs to start many sandboxes at once.
func starts(ctx context.Context, b *bench, w *strings.Builder, session *sbx.Session) error {
	var alone, together []float64
	for range min(b.Rounds, 5) {
		for _, atOnce := range []bool{false, true} {
			sandboxes := make([]*sbx.Sandbox, burst)
			for i := range sandboxes {
				sandboxes[i] = session.Sandbox(sbx.Limit(sbx.Resources{DiskMiB: 16})) // of limits of their own: none is there before it is asked for
			}
			errs := make([]error, burst)
			var all sync.WaitGroup
			began := time.Now()
			for i, sandbox := range sandboxes {
				start := func() { errs[i] = sandbox.Start(ctx) }
				if atOnce {
					all.Go(start)
				} else {
					start()
				}
			}
			all.Wait()
			each := float64(time.Since(began)) / burst / 1e6
			for _, sandbox := range sandboxes {
				errs = append(errs, sandbox.Stop(ctx))
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			if atOnce {
				together = append(together, each)
			} else {
				alone = append(alone, each)
			}
		}
	}
	serial, parallel := measure.Median(alone), measure.Median(together)
	fmt.Fprintf(w, "\n%d sandboxes that are started one after the other take %s ms each, and %s ms each at once, on %d processors.\n",
		burst, measure.Short(serial), measure.Short(parallel), runtime.NumCPU())
	b.AtMost(fmt.Sprintf("%d sandboxes at once: to one after the other", burst), parallel/serial, 1.3)
	return nil
}
