package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/internal/measure"
)

const (
	// journaledInputs is how many inputs a map has whose results go to the disk.
	journaledInputs = 50_000
	// minJournaled is what such a map should do in a second.
	minJournaled = 20_000
)

// journaled measures maps of empty calls with a journal, and what it takes to have all of it from there.
func journaled(ctx context.Context, b *bench, w *strings.Builder) error {
	folder, err := os.MkdirTemp("", "sbx-bench-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	fmt.Fprintf(w, "A map of %d empty calls over two sandboxes, with and without a journal on the disk of the temporary folder. The next run has everything there already.\n\n", journaledInputs)
	fmt.Fprintf(w, "| inputs/s | without a journal | with one | from one |\n| --- | --- | --- | --- |\n")
	for _, v := range variants {
		session, err := v.open(ctx, sbx.MaxSandboxes(2))
		if err != nil {
			return err
		}
		empty := session.Function(Empty, sbx.Version("1"))
		run := func(opts ...sbx.MapOption) (float64, error) {
			began := time.Now()
			for _, err := range empty.Map(ctx, repeat(struct{}{}, journaledInputs), opts...) {
				if err != nil {
					return 0, err
				}
			}
			return journaledInputs / time.Since(began).Seconds(), nil
		}
		var plain, computed, recalled []float64
		for i := range 3 {
			path := filepath.Join(folder, fmt.Sprint(v.name, i))
			for _, one := range []struct {
				rates *[]float64
				opts  []sbx.MapOption
			}{{&plain, nil}, {&computed, []sbx.MapOption{sbx.Journal(path)}}, {&recalled, []sbx.MapOption{sbx.Journal(path)}}} {
				rate, err := run(one.opts...)
				if err != nil {
					return err
				}
				*one.rates = append(*one.rates, rate)
			}
		}
		fmt.Fprintf(w, "| %s | %.0f | %.0f | %.0f |\n", v.name, measure.Median(plain), measure.Median(computed), measure.Median(recalled))
		b.AtLeast("map with a journal, "+v.name+": inputs/s", measure.Median(computed), minJournaled)
		if err := session.Close(); err != nil {
			return err
		}
	}
	return nil
}
