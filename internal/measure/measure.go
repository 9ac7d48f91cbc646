// Package measure is what the programs have in common that compare what sbx costs with what one would use instead: turns, tables, bars, and
// where results are kept. What is compared takes turns, so that other load on the machine meets all alike. Its audience is those programs.
package measure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Contender does one thing n times, as others do it.
type Contender struct {
	Name string
	Run  func(ctx context.Context, n int) error
}

// slice is about how long a contender runs at a time: long enough to be in its stride, and so short that other load on the machine meets
// all alike.
const slice = 60 * time.Millisecond

// Contest has the contenders take turns, and returns the median of what one operation took, in nanoseconds, for each.
func (r *Run) Contest(ctx context.Context, contenders []Contender) (map[string]float64, error) {
	counts := make([]int, len(contenders))
	taken := map[string][]float64{}
	for round := range r.Rounds + 1 {
		for i, c := range contenders {
			n := max(counts[i], 1)
			if round == 0 { // its sandbox starts, which may take longer than a slice
				if err := c.Run(ctx, n); err != nil {
					return nil, fmt.Errorf("%s: %w", c.Name, err)
				}
			}
			began := time.Now()
			err := c.Run(ctx, n)
			each := float64(time.Since(began)) / float64(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
			if round == 0 { // which warms up, and shows how many fit into a slice
				for time.Duration(each*float64(n)) < slice && n < 1<<20 {
					n *= 2
					began := time.Now()
					if err := c.Run(ctx, n); err != nil {
						return nil, fmt.Errorf("%s: %w", c.Name, err)
					}
					each = float64(time.Since(began)) / float64(n)
				}
				counts[i] = max(int(float64(slice)/each), 1)
				continue
			}
			taken[c.Name] = append(taken[c.Name], each)
		}
	}
	medians := map[string]float64{}
	for name, list := range taken {
		medians[name] = Median(list)
	}
	return medians, nil
}

// Median sorts the list, and returns the one in the middle.
func Median[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// A bar is what a ratio should be, and what it is.
type bar struct {
	name  string
	value float64
	limit float64
	most  bool // limit is the most that value may be, and not the least
}

func (b bar) held() bool { return b.most && b.value <= b.limit || !b.most && b.value >= b.limit }

// worse is by what factor a value is worse than another one; below 1 it is better.
func (b bar) worse(than float64) float64 {
	if b.most {
		return b.value / than
	}
	return than / b.value
}

func (b bar) row() string {
	verdict, relation := "held", "at least"
	if b.most {
		relation = "at most"
	}
	if !b.held() {
		verdict = fmt.Sprintf("**missed** by a factor of %.2f", b.worse(b.limit))
	}
	return fmt.Sprintf("| %s | %s %s | %s | %s |\n", b.name, relation, Short(b.limit), Short(b.value), verdict)
}

// Short prints a number with three digits that count.
func Short(value float64) string {
	switch {
	case value >= 100 || value == float64(int(value)):
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// ErrLeftOut is of a part for which the machine lacks something. What is written down of it stays as it is.
var ErrLeftOut = errors.New("left out")

// A Run is one run of a program that measures.
type Run struct {
	Program string // its folder, from the repository's root
	Rounds  int    // how often each contender runs
	With    string // what else takes part, with its version

	tables map[string]string // by the name of the part
	bars   []bar
}

// A Part is what is measured and printed together.
type Part struct {
	Name string
	Run  func(ctx context.Context, w *strings.Builder) error
}

// All runs the parts whose names match, and prints what comes of them.
func (r *Run) All(ctx context.Context, only *regexp.Regexp, parts []Part) error {
	r.tables = map[string]string{}
	for _, p := range parts {
		if !only.MatchString(p.Name) {
			continue
		}
		var table strings.Builder
		began := time.Now()
		if err := p.Run(ctx, &table); errors.Is(err, ErrLeftOut) {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		r.tables[p.Name] = table.String()
		fmt.Printf("## %s\n\n%s\n", p.Name, table.String())
		fmt.Fprintf(os.Stderr, "%s took %v\n", p.Name, time.Since(began).Round(time.Second/10))
	}
	var bars strings.Builder
	bars.WriteString("| | bar | measured | |\n| --- | --- | --- | --- |\n")
	for _, bar := range r.bars {
		bars.WriteString(bar.row())
	}
	r.tables["bars"] = bars.String()
	fmt.Printf("## bars\n\n%s", bars.String())
	return nil
}

// AtMost notes a ratio that should be no more than limit.
func (r *Run) AtMost(name string, value, limit float64) {
	r.bars = append(r.bars, bar{name, value, limit, true})
}

// AtLeast notes a ratio that should be no less than limit.
func (r *Run) AtLeast(name string, value, limit float64) {
	r.bars = append(r.bars, bar{name, value, limit, false})
}

// Compare writes a table of what contenders took, with ratios to the first ones of them.
func Compare(w *strings.Builder, contenders []Contender, took map[string]float64, unit time.Duration, bases ...string) {
	fmt.Fprintf(w, "| | %s |", map[time.Duration]string{time.Microsecond: "µs", time.Millisecond: "ms"}[unit])
	for _, base := range bases {
		fmt.Fprintf(w, " × %s |", base)
	}
	w.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(bases)) + "\n")
	for _, c := range contenders {
		fmt.Fprintf(w, "| %s | %s |", c.Name, Short(took[c.Name]/float64(unit)))
		for _, base := range bases {
			fmt.Fprintf(w, " %s |", Short(took[c.Name]/took[base]))
		}
		w.WriteString("\n")
	}
}
