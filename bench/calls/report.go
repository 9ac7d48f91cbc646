package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
)

// Where results are kept, from the repository's root.
const (
	ratiosFile      = "bench/calls/ratios.json"
	performanceFile = "docs/performance.md"
)

// tolerance is by what factor a ratio may be worse than the one that is kept.
const tolerance = 1.2

// writeDown puts the tables between the marks in docs/performance.md, and keeps the ratios.
func (b *bench) writeDown(command string) error {
	content, err := os.ReadFile(performanceFile)
	if err != nil {
		return fmt.Errorf("%w: run it in the repository's root", err)
	}
	tables := map[string]string{"machine": machine(b, command)}
	for name, table := range b.tables {
		tables[name] = table
	}
	for _, name := range sortedKeys(tables) {
		marks := regexp.MustCompile(`(?s)(<!-- bench/calls: ` + regexp.QuoteMeta(name) + ` -->\n).*?(<!-- end -->)`)
		if !marks.Match(content) {
			return fmt.Errorf("%s has no marks for %q", performanceFile, name)
		}
		content = marks.ReplaceAll(content, []byte("${1}"+strings.ReplaceAll(strings.TrimSpace(tables[name]), "$", "$$")+"\n${2}"))
	}
	if err := os.WriteFile(performanceFile, content, 0o644); err != nil {
		return err
	}
	kept, err := readRatios()
	if err != nil {
		return err
	}
	for _, bar := range b.bars {
		kept[bar.name] = bar.value
	}
	text, err := json.MarshalIndent(kept, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(ratiosFile, append(text, '\n'), 0o644)
}

func readRatios() (map[string]float64, error) {
	kept := map[string]float64{}
	content, err := os.ReadFile(ratiosFile)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return nil, err
	}
	return kept, json.Unmarshal(content, &kept)
}

// check says what is worse than it was by more than the tolerance, and fails if anything is.
func (b *bench) check() error {
	kept, err := readRatios()
	if err != nil {
		return err
	}
	worse := 0
	for _, bar := range b.bars {
		before, ok := kept[bar.name]
		if !ok {
			fmt.Printf("%s: %s, new\n", bar.name, short(bar.value))
			continue
		}
		if before > 0 && bar.worse(before) > tolerance {
			worse++
			fmt.Printf("%s: %s, was %s\n", bar.name, short(bar.value), short(before))
		}
	}
	if worse > 0 {
		return fmt.Errorf("ratios that are worse by more than %.0f %% than in %s: %d", 100*(tolerance-1), ratiosFile, worse)
	}
	fmt.Printf("no ratio is worse by more than %.0f %% than in %s\n", 100*(tolerance-1), ratiosFile)
	return nil
}

// machine says what the numbers are of.
func machine(b *bench, command string) string {
	text := fmt.Sprintf("`%s` on %d processors (%s), Linux %s, %s", command, runtime.NumCPU(), model(), firstLine("uname", "-r"), runtime.Version())
	if len(b.peers.pythons) > 0 {
		text += ", " + firstLine(pythonPath, "--version")
		if version := firstLine(pythonPath, "-c", "import distributed; print(distributed.__version__)"); version != "" {
			text += " with dask.distributed " + version
		}
	}
	for _, missing := range b.peers.missing {
		text += "; without " + missing
	}
	return text + fmt.Sprintf(". Medians of %d rounds, in which what is compared took turns.", b.rounds)
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

func firstLine(name string, arguments ...string) string {
	output, err := exec.Command(name, arguments...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(output), "\n")
	return strings.TrimSpace(line)
}
