package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sandboxfn/sbx/internal/measure"
)

//go:embed peers.py
var pythonSource string

// pythonPath has what distributions package, dask among it; another one on PATH may not.
const pythonPath = "/usr/bin/python3"

// python is an interpreter that runs peers.py with one kind of pool.
type python struct {
	name    string
	process *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Reader
}

// startPythons starts those that this machine has, and says which it does not.
func startPythons(folder string) (pools []*python, missing []string, err error) {
	script := filepath.Join(folder, "peers.py")
	if err := os.WriteFile(script, []byte(pythonSource), 0o600); err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"ProcessPoolExecutor", "dask.distributed"} {
		p := &python{name: name, process: exec.Command(pythonPath, script, name)}
		p.process.Dir = folder // for what dask leaves
		if p.stdin, err = p.process.StdinPipe(); err != nil {
			return pools, missing, err
		}
		output, err := p.process.StdoutPipe()
		if err != nil {
			return pools, missing, err
		}
		p.answers = bufio.NewReader(output)
		if err := p.process.Start(); err != nil {
			missing = append(missing, name)
			continue
		}
		if err := p.ask("ready"); err != nil {
			missing = append(missing, name)
			p.close()
			continue
		}
		pools = append(pools, p)
	}
	return pools, missing, nil
}

// ask has the interpreter do something, and waits until it is done.
func (p *python) ask(format string, args ...any) error {
	if _, err := fmt.Fprintf(p.stdin, format+"\n", args...); err != nil {
		return err
	}
	line, err := p.answers.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != "done" {
		return fmt.Errorf("%s said %q", p.name, line)
	}
	return nil
}

// contender is one of the two things that the interpreter does: call and map.
func (p *python) contender(what string) measure.Contender {
	return measure.Contender{Name: p.name, Run: func(_ context.Context, n int) error { return p.ask("%s %d", what, n) }}
}

func (p *python) close() {
	_ = p.stdin.Close()
	_ = p.process.Wait()
}

// versions says which of them there are, as text to be appended.
func (p *peers) versions() string {
	text := ""
	if len(p.pythons) > 0 {
		text += ", " + measure.FirstLine(pythonPath, "--version")
		if version := measure.FirstLine(pythonPath, "-c", "import distributed; print(distributed.__version__)"); version != "" {
			text += " with dask.distributed " + version
		}
	}
	for _, missing := range p.missing {
		text += "; without " + missing
	}
	return text
}
