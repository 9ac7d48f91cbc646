package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// sweep is what came of the jobs. Those that differ only in their seed are one line: a single run says little.
type sweep map[setting]*outcome

type setting struct {
	rate   float64
	hidden int
}

type outcome struct {
	reports  []Report
	diverged int
}

func (s sweep) at(job Job) *outcome {
	key := setting{rate: job.LearningRate, hidden: job.Hidden}
	if s[key] == nil {
		s[key] = &outcome{}
	}
	return s[key]
}

func (s sweep) add(job Job, report Report) {
	o := s.at(job)
	o.reports = append(o.reports, report)
}

func (s sweep) addDiverged(job Job) { s.at(job).diverged++ }

// mean is the mean of one number of the runs that converged, or -1 if none did.
func (o *outcome) mean(number func(Report) float64) float64 {
	if len(o.reports) == 0 {
		return -1
	}
	var sum float64
	for _, report := range o.reports {
		sum += number(report)
	}
	return sum / float64(len(o.reports))
}

func (o *outcome) validation() float64 {
	return o.mean(func(r Report) float64 { return r.ValidationAccuracy })
}

// print writes a line for each setting, the one that does best on penguins it hasn't seen first.
func (s sweep) print(w io.Writer) error {
	settings := slices.SortedFunc(maps.Keys(s), func(a, b setting) int {
		return cmp.Or(
			cmp.Compare(s[b].validation(), s[a].validation()),
			cmp.Compare(a.rate, b.rate),
			cmp.Compare(a.hidden, b.hidden),
		)
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "LEARNING RATE\tHIDDEN\tVALIDATION\tTRAINING\tLOSS\tDIVERGED\t")
	var runs, diverged int
	for _, key := range settings {
		o := s[key]
		all := len(o.reports) + o.diverged
		runs += all
		diverged += o.diverged
		if len(o.reports) == 0 {
			fmt.Fprintf(table, "%g\t%d\t-\t-\t-\t%d of %d\t\n", key.rate, key.hidden, o.diverged, all)
			continue
		}
		fmt.Fprintf(table, "%g\t%d\t%.1f%%\t%.1f%%\t%.3f\t%d of %d\t\n", key.rate, key.hidden, 100*o.validation(),
			100*o.mean(func(r Report) float64 { return r.TrainAccuracy }), o.mean(func(r Report) float64 { return r.Loss }), o.diverged, all)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d runs, %d of them diverged\n", runs, diverged)
	return err
}
