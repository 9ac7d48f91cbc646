package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/measure"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/worker"
)

// firstByteVariable makes this program write one byte and end: what a plain start of the worker's executable takes.
const firstByteVariable = "SBX_BENCH_FIRST_BYTE"

func init() { // behind the init functions of all that the worker is made of
	if os.Getenv(firstByteVariable) != "" {
		_, _ = os.Stdout.WriteString("r")
		os.Exit(0)
	}
}

// The steps from nothing to a first result.
var steps = []string{"the sandbox", "its worker's start", "the worker's first byte", "the stream", "the first call", "all"}

// cold measures how long it takes from nothing to a first result, step by step.
func cold(ctx context.Context, b *bench, w *strings.Builder) error {
	taken := map[string]map[string][]float64{}
	note := func(who, step string, d time.Duration) {
		if taken[who] == nil {
			taken[who] = map[string][]float64{}
		}
		taken[who][step] = append(taken[who][step], float64(d)/1e6)
	}
	opens := map[string]driver.Session{}
	for _, v := range variants {
		began := time.Now()
		session, err := v.driver.Open(ctx, driver.SessionSpec{
			ID: "bench", Logger: slog.New(slog.DiscardHandler),
			Worker: func(context.Context, driver.Platform) (string, error) { return worker.Executable() },
		})
		if err != nil {
			return err
		}
		opens[v.name] = session
		note(v.name, "open", time.Since(began))
	}
	serial := 0
	for round := range 3*b.Rounds + 1 {
		began := time.Now()
		if err := firstByte(); err != nil {
			return err
		}
		if round > 0 {
			note("exec", "all", time.Since(began))
		}
		for _, v := range variants {
			serial++
			times, err := startCold(ctx, opens[v.name], fmt.Sprint("bench-", serial))
			if err != nil {
				return err
			}
			if round == 0 {
				continue
			}
			last := times[0]
			for i, t := range times[1:] {
				note(v.name, steps[i], t.Sub(last))
				last = t
			}
			note(v.name, "all", last.Sub(times[0]))
		}
	}
	for _, session := range opens {
		if err := session.Close(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "From nothing to a first result, in a session that is open: medians of %d starts in turn, in ms. A plain exec of the same executable takes %s ms to its first byte.\n\n", 3*b.Rounds, measure.Short(measure.Median(taken["exec"]["all"])))
	fmt.Fprintf(w, "| | %s | × exec |\n| --- |%s --- |\n", strings.Join(steps, " | "), strings.Repeat(" --- |", len(steps)))
	for _, v := range variants {
		fmt.Fprintf(w, "| %s |", v.name)
		for _, step := range steps {
			fmt.Fprintf(w, " %s |", measure.Short(measure.Median(taken[v.name][step])))
		}
		ratio := measure.Median(taken[v.name]["all"]) / measure.Median(taken["exec"]["all"])
		fmt.Fprintf(w, " %s |\n", measure.Short(ratio))
		b.AtMost("cold, "+v.name+": to a plain exec", ratio, 4)
	}
	w.WriteString("\nOpen, once a session:")
	for _, v := range variants {
		fmt.Fprintf(w, " %s %s ms;", v.name, measure.Short(measure.Median(taken[v.name]["open"])))
	}
	w.WriteString(" not counted above.\n")
	return nil
}

// firstByte starts this program, and returns when it has written a byte.
func firstByte() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{firstByteVariable + "=1"}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(output).ReadByte(); err != nil {
		return err
	}
	return cmd.Wait()
}

// startCold makes a sandbox and calls Empty in it, and returns when each step was done, the begin first.
func startCold(ctx context.Context, session driver.Session, id string) ([]time.Time, error) {
	times := []time.Time{time.Now()}
	sandbox, err := session.Create(ctx, driver.Spec{ID: id})
	if err != nil {
		return nil, err
	}
	times = append(times, time.Now())
	watched := &watchedSandbox{Sandbox: sandbox}
	started, err := launch.Start(ctx, watched, launch.Config{Session: "bench", Sandbox: id, Divert: worker.Diverts()})
	if err != nil {
		return nil, err
	}
	times = append(times, watched.started, watched.said, time.Now())
	function, ok := started.Function("github.com/sandboxfn/sbx/bench/calls.Empty")
	if !ok {
		return nil, fmt.Errorf("the worker has no function Empty")
	}
	<-started.Go(&wirepb.Call{Attempt: 1, Function: function.Index, Name: "c"}, []byte{0x90}).Done()
	times = append(times, time.Now())
	err = sandbox.Stop(ctx)
	started.Close()
	return times, err
}

// watchedSandbox notes when its worker was started, and when that said its first byte.
type watchedSandbox struct {
	driver.Sandbox
	started, said time.Time
}

func (s *watchedSandbox) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	process, err := s.Sandbox.StartWorker(ctx, spec)
	s.started = time.Now()
	return &watchedProcess{Process: process, sandbox: s}, err
}

type watchedProcess struct {
	driver.Process
	sandbox *watchedSandbox
}

func (p *watchedProcess) Handshake() io.ReadCloser {
	return &watchedReader{ReadCloser: p.Process.Handshake(), sandbox: p.sandbox}
}

type watchedReader struct {
	io.ReadCloser
	sandbox *watchedSandbox
	once    sync.Once
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.once.Do(func() { r.sandbox.said = time.Now() })
	return n, err
}
