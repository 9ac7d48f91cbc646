package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

// fresh measures calls that each have a sandbox of their own: one that is there when the call comes, beside one that is started for it.
func fresh(ctx context.Context, b *bench, w *strings.Builder) error {
	const calls = 32 // many more than are ready when a turn begins
	// A start waits for this and that: so many at a time keep every processor busy.
	many := 8 * runtime.GOMAXPROCS(0)
	var contenders []measure.Contender
	var sessions []*sbx.Session
	for _, v := range variants {
		for _, one := range []struct {
			name string
			opt  sbx.SandboxOption
		}{{"sbx.MaxUses(1)", sbx.MaxUses(1)}, {"sbx.Fresh()", sbx.Fresh()}} {
			session, err := v.open(ctx, one.opt, sbx.MaxSandboxes(many))
			if err != nil {
				return err
			}
			sessions = append(sessions, session)
			empty := session.Function(Empty)
			call := func(ctx context.Context) error {
				_, err := empty.Call(ctx, struct{}{})
				return err
			}
			for _, atOnce := range []int{1, runtime.GOMAXPROCS(0), many} {
				run := together(atOnce, call)
				contenders = append(contenders, measure.Contender{
					Name: fmt.Sprintf("%s, %s, %d at a time", v.name, one.name, atOnce),
					Run:  func(ctx context.Context, n int) error { return run(ctx, n*calls) },
				})
			}
		}
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	for name := range took {
		took[name] /= calls
	}
	fmt.Fprintf(w, "An empty call in a sandbox of its own, which is stopped after it; %d sandboxes at most.\n\n", many)
	measure.Compare(w, contenders, took, time.Millisecond, "sbx, local, sbx.MaxUses(1), 1 at a time")
	local := contenders[len(contenders)-1].Name
	b.AtLeast("calls in fresh sandboxes a second, "+local, float64(time.Second)/took[local], 100)
	for _, session := range sessions {
		err = errors.Join(err, session.Close())
	}
	return err
}
