package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Where results are kept, from the repository's root.
const (
	RatiosFile      = "bench/ratios.json"
	PerformanceFile = "docs/performance.md"
)

// tolerance is by what factor a ratio may be worse than the one that is kept.
const tolerance = 1.2

// WriteDown puts the tables between the marks in docs/performance.md, and keeps the ratios.
func (r *Run) WriteDown(command string) error {
	content, err := os.ReadFile(PerformanceFile)
	if err != nil {
		return fmt.Errorf("%w: run it in the repository's root", err)
	}
	tables := map[string]string{"machine": r.machine(command)}
	for name, table := range r.tables {
		tables[name] = table
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		marks := regexp.MustCompile(`(?s)(<!-- ` + r.Program + `: ` + regexp.QuoteMeta(name) + ` -->\n).*?(<!-- end -->)`)
		if !marks.Match(content) {
			return fmt.Errorf("%s has no marks for %q", PerformanceFile, name)
		}
		content = marks.ReplaceAll(content, []byte("${1}"+strings.ReplaceAll(strings.TrimSpace(tables[name]), "$", "$$")+"\n${2}"))
	}
	if err := os.WriteFile(PerformanceFile, content, 0o644); err != nil {
		return err
	}
	kept, err := readRatios()
	if err != nil {
		return err
	}
	for _, bar := range r.bars {
		kept[bar.name] = bar.value
	}
	text, err := json.MarshalIndent(kept, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(RatiosFile, append(text, '\n'), 0o644)
}

func readRatios() (map[string]float64, error) {
	kept := map[string]float64{}
	content, err := os.ReadFile(RatiosFile)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return nil, err
	}
	return kept, json.Unmarshal(content, &kept)
}

// Check says what is worse than it was by more than the tolerance, and fails if anything is.
func (r *Run) Check() error {
	kept, err := readRatios()
	if err != nil {
		return err
	}
	worse := 0
	for _, bar := range r.bars {
		before, ok := kept[bar.name]
		if !ok {
			fmt.Printf("%s: %s, new\n", bar.name, Short(bar.value))
			continue
		}
		if before > 0 && bar.worse(before) > tolerance {
			worse++
			fmt.Printf("%s: %s, was %s\n", bar.name, Short(bar.value), Short(before))
		}
	}
	if worse > 0 {
		return fmt.Errorf("ratios that are worse by more than %.0f %% than in %s: %d", 100*(tolerance-1), RatiosFile, worse)
	}
	fmt.Printf("no ratio is worse by more than %.0f %% than in %s\n", 100*(tolerance-1), RatiosFile)
	return nil
}

// machine says what the numbers are of.
func (r *Run) machine(command string) string {
	kernel, _, _ := strings.Cut(FirstLine("uname", "-r"), "-") // the rest is the distribution's
	text := fmt.Sprintf("`%s` on %d processors (%s), Linux %s, %s", command, runtime.NumCPU(), model(), kernel, runtime.Version())
	return text + r.With + fmt.Sprintf(". Medians of %d rounds, in which what is compared took turns.", r.Rounds)
}

func model() string {
	content, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(content)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// FirstLine returns the first line that a program prints; empty if it can't be run.
func FirstLine(name string, arguments ...string) string {
	output, err := exec.Command(name, arguments...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(output), "\n")
	return strings.TrimSpace(line)
}
