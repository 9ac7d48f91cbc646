package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A contender does one thing n times, as others do it.
type contender struct {
	name string
	run  func(ctx context.Context, n int) error
}

// slice is about how long a contender runs at a time: long enough to be in its stride, and so short that other load on the machine meets
// all alike.
const slice = 60 * time.Millisecond

// contest has the contenders take turns, and returns the median of what one operation took, in nanoseconds, for each.
func (b *bench) contest(ctx context.Context, contenders []contender) (map[string]float64, error) {
	counts := make([]int, len(contenders))
	taken := map[string][]float64{}
	for round := range b.rounds + 1 {
		for i, c := range contenders {
			n := max(counts[i], 1)
			began := time.Now()
			err := c.run(ctx, n)
			each := float64(time.Since(began)) / float64(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if round == 0 { // which warms up, and shows how many fit into a slice
				for time.Duration(each*float64(n)) < slice && n < 1<<20 {
					n *= 2
					began := time.Now()
					if err := c.run(ctx, n); err != nil {
						return nil, fmt.Errorf("%s: %w", c.name, err)
					}
					each = float64(time.Since(began)) / float64(n)
				}
				counts[i] = max(int(float64(slice)/each), 1)
				continue
			}
			taken[c.name] = append(taken[c.name], each)
		}
	}
	medians := map[string]float64{}
	for name, list := range taken {
		medians[name] = median(list)
	}
	return medians, nil
}

func median[T cmp.Ordered](list []T) T {
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
	return fmt.Sprintf("| %s | %s %s | %s | %s |\n", b.name, relation, short(b.limit), short(b.value), verdict)
}

// short prints a number with three digits that count.
func short(value float64) string {
	switch {
	case value >= 100 || value == float64(int(value)):
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// bench is one run of the program.
type bench struct {
	rounds int
	growth int
	inputs int // of the long map
	only   *regexp.Regexp
	tables map[string]string // by the name of the part
	bars   []bar
	peers  *peers
}

// part is what is measured and printed together.
type part struct {
	name string
	run  func(ctx context.Context, b *bench, w *strings.Builder) error
}

// all runs the parts that are asked for, and prints what comes of them.
func (b *bench) all(ctx context.Context, parts []part) error {
	for _, p := range parts {
		if !b.only.MatchString(p.name) {
			continue
		}
		var table strings.Builder
		began := time.Now()
		if err := p.run(ctx, b, &table); errors.Is(err, errLeftOut) {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p.name, err)
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.tables[p.name] = table.String()
		fmt.Printf("## %s\n\n%s\n", p.name, table.String())
		fmt.Fprintf(os.Stderr, "%s took %v\n", p.name, time.Since(began).Round(time.Second/10))
	}
	var bars strings.Builder
	bars.WriteString("| | bar | measured | |\n| --- | --- | --- | --- |\n")
	for _, bar := range b.bars {
		bars.WriteString(bar.row())
	}
	b.tables["bars"] = bars.String()
	fmt.Printf("## bars\n\n%s", bars.String())
	return nil
}

func (b *bench) atMost(name string, value, limit float64) {
	b.bars = append(b.bars, bar{name, value, limit, true})
}

func (b *bench) atLeast(name string, value, limit float64) {
	b.bars = append(b.bars, bar{name, value, limit, false})
}

// compare writes a table of what contenders took, with ratios to the first ones of them.
func compare(w *strings.Builder, contenders []contender, took map[string]float64, unit time.Duration, bases ...string) {
	fmt.Fprintf(w, "| | %s |", map[time.Duration]string{time.Microsecond: "µs", time.Millisecond: "ms"}[unit])
	for _, base := range bases {
		fmt.Fprintf(w, " × %s |", base)
	}
	w.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(bases)) + "\n")
	for _, c := range contenders {
		fmt.Fprintf(w, "| %s | %s |", c.name, short(took[c.name]/float64(unit)))
		for _, base := range bases {
			fmt.Fprintf(w, " %s |", short(took[c.name]/took[base]))
		}
		w.WriteString("\n")
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
