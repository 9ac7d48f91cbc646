package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

// spinVariable makes this program compute for so many rounds, and end.
const spinVariable = "SBX_BENCH_SPIN"

func init() {
	if text := os.Getenv(spinVariable); text != "" {
		rounds, err := strconv.Atoi(text)
		if err != nil || spin(rounds) == 0 {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// scale measures how near many sandboxes come to doing many things at a time.
func scale(ctx context.Context, b *bench, w *strings.Builder) error {
	const task = 10 * time.Millisecond
	const tasksEach = 100
	fmt.Fprintf(w, "Tasks that sleep for %v, %d for each of N sandboxes: how much of N× is reached. Sleep itself takes longer than it is told, so beside it the same\n", task, tasksEach)
	w.WriteString("tasks on N goroutines of one program; the bar is the worst of what is reached of that.\n\n| N |")
	counts := []int{1, 2, 4, 8, 16, 32, 64}
	for _, n := range counts {
		fmt.Fprintf(w, " %d |", n)
	}
	w.WriteString("\n| --- |" + strings.Repeat(" --- |", len(counts)) + "\n")
	ideal := func(took time.Duration) float64 { return float64(task*tasksEach) / float64(took) }
	goroutines := map[int]float64{}
	w.WriteString("| goroutines |")
	for _, n := range counts {
		goroutines[n] = ideal(sleepingHere(ctx, n, tasksEach, task))
		fmt.Fprintf(w, " %.1f %% |", 100*goroutines[n])
	}
	w.WriteString("\n")
	worst := map[string]float64{}
	for _, v := range variants {
		worst[v.name] = 1
		fmt.Fprintf(w, "| %s |", v.name)
		for _, n := range counts {
			took, err := sleeping(ctx, v, n, n*tasksEach, task)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, " %.1f %% |", 100*ideal(took))
			worst[v.name] = min(worst[v.name], ideal(took)/goroutines[n])
		}
		w.WriteString("\n")
	}
	for _, v := range variants {
		b.AtLeast("sleeping tasks, "+v.name+": the worst efficiency of N = 1 to 64", worst[v.name], 0.97)
	}
	return b.computing(ctx, w)
}

// sleepingHere returns how long n goroutines take for so many tasks each.
func sleepingHere(ctx context.Context, n, tasks int, task time.Duration) time.Duration {
	began := time.Now()
	var goroutines sync.WaitGroup
	for range n {
		goroutines.Go(func() {
			for range tasks {
				_, _ = Sleep(ctx, task)
			}
		})
	}
	goroutines.Wait()
	return time.Since(began)
}

// sleeping returns how long so many tasks take in n sandboxes.
func sleeping(ctx context.Context, v variant, n, tasks int, task time.Duration) (time.Duration, error) {
	session, err := v.open(ctx, sbx.MaxSandboxes(n))
	if err != nil {
		return 0, err
	}
	if err := session.Prewarm(ctx, n); err != nil {
		return 0, err
	}
	sleep := session.Function(Sleep)
	run := func(tasks int) (time.Duration, error) {
		began := time.Now()
		for _, err := range sleep.Map(ctx, repeat(task, tasks)) {
			if err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}
	if _, err := run(n); err != nil {
		return 0, err
	}
	took, err := run(tasks)
	if err != nil {
		return 0, err
	}
	return took, session.Close()
}

// computing compares tasks that need processors with processes that do the same.
func (b *bench) computing(ctx context.Context, w *strings.Builder) error {
	processors := runtime.NumCPU()
	const tasks, rounds = 20, 10_000_000
	contenders := []measure.Contender{{Name: "os/exec", Run: func(context.Context, int) error {
		var started []*exec.Cmd
		for range processors {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{spinVariable + "=" + strconv.Itoa(rounds*tasks)}
			if err := cmd.Start(); err != nil {
				return err
			}
			started = append(started, cmd)
		}
		for _, cmd := range started {
			if err := cmd.Wait(); err != nil {
				return err
			}
		}
		return nil
	}}}
	sessions, end, err := open(ctx, sbx.MaxSandboxes(processors))
	if err != nil {
		return err
	}
	for _, v := range variants {
		if err := sessions[v.name].Prewarm(ctx, processors); err != nil {
			return err
		}
		spin := sessions[v.name].Function(Spin)
		contenders = append(contenders, measure.Contender{Name: v.name, Run: func(ctx context.Context, _ int) error {
			for _, err := range spin.Map(ctx, repeat(rounds, tasks*processors)) {
				if err != nil {
					return err
				}
			}
			return nil
		}})
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nTasks that compute, %d for each of %d processors, beside as many processes that do the same work in one go.\n\n", tasks, processors)
	measure.Compare(w, contenders, took, time.Millisecond, "os/exec")
	for _, v := range variants {
		b.AtLeast("computing tasks, "+v.name+": rate to parallel processes'", took["os/exec"]/took[v.name], 0.95)
	}
	return end()
}
