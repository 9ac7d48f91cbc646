package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// What is shown at most; the totals are of all.
const (
	shownPackages = 15
	shownFailures = 10
)

// summary is what a run found out.
type summary struct {
	packages         []measuredPackage
	failures         []error
	total            Metrics
	calls, sandboxes int
	took             time.Duration
}

type measuredPackage struct {
	path string
	Metrics
}

// add takes the outcome of one call.
func (s *summary) add(p Package, m Metrics, err error) {
	s.calls++
	if err != nil {
		s.failures = append(s.failures, fmt.Errorf("%s: %w", p.Path, err))
		return
	}
	s.packages = append(s.packages, measuredPackage{path: p.Path, Metrics: m})
	s.total.Files += m.Files
	s.total.Lines += m.Lines
	s.total.Functions += m.Functions
	s.total.Complexity += m.Complexity
	for _, line := range m.Unparsed {
		s.total.Unparsed = append(s.total.Unparsed, p.Path+"/"+line)
	}
}

// print writes the most complex packages, what went wrong, and the totals.
func (s *summary) print(w io.Writer) error {
	slices.SortFunc(s.packages, func(a, b measuredPackage) int {
		return cmp.Or(cmp.Compare(b.Complexity, a.Complexity), cmp.Compare(a.path, b.path))
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PACKAGE\tFILES\tLINES\tFUNCTIONS\tCOMPLEXITY\tMEAN\tMOST COMPLEX FUNCTION")
	for _, p := range s.packages[:min(len(s.packages), shownPackages)] {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%.1f\t%s %d (%s)\n", p.path, p.Files, p.Lines, p.Functions, p.Complexity, p.Mean(),
			p.MostComplex.Name, p.MostComplex.Complexity, p.MostComplex.Position)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, line := range s.total.Unparsed[:min(len(s.total.Unparsed), shownFailures)] {
		fmt.Fprintln(w, "not valid Go:", line)
	}
	for _, err := range s.failures[:min(len(s.failures), shownFailures)] {
		fmt.Fprintln(w, "failed:", err)
	}
	_, err := fmt.Fprintf(w, "\n%d packages, %d files, %d lines, %d functions of mean complexity %.1f, %d files not parsed\n"+
		"%d sandboxes, %d calls, %d failed, %s, %.0f calls per second\n",
		len(s.packages), s.total.Files, s.total.Lines, s.total.Functions, s.total.Mean(), len(s.total.Unparsed),
		s.sandboxes, s.calls, len(s.failures), s.took.Round(time.Millisecond), float64(s.calls)/s.took.Seconds())
	return err
}
