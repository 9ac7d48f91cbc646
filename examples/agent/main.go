// Command agent works as programs do that let a language model write code: it writes a script into a sandbox, runs it there, and tries again with what
// went wrong, until a typed function, which runs in the same sandbox, has a result that it takes. The model is played by a list of answers.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen

// ErrTooFew is wrapped by the error of Summarize for a file with too few rows.
var ErrTooFew = errors.New("too few rows")

// Summary is what the agent is asked for.
type Summary struct {
	Rows   int
	Median float64
}

// Summarize reads what a script has left. It runs in the sandbox, where the file is: what nobody trusts is not parsed outside of it.
func Summarize(_ context.Context, path string) (Summary, error) {
	file, err := os.Open(path)
	if err != nil {
		return Summary{}, err
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return Summary{}, err
	}
	if len(rows) < 5 {
		return Summary{}, fmt.Errorf("%w: %d, and at least 5 are needed", ErrTooFew, len(rows))
	}
	var values []float64
	for _, row := range rows {
		value, err := strconv.ParseFloat(row[len(row)-1], 64)
		if err != nil {
			return Summary{}, err
		}
		values = append(values, value)
	}
	slices.Sort(values)
	return Summary{len(rows), values[len(values)/2]}, nil
}

// Model writes the next script, knowing what was wrong with the last one.
type Model func(ctx context.Context, wrong error) (script string, err error)

// Solve lets the model write scripts for the interpreter until one leaves a result.csv that Summarize takes.
func Solve(ctx context.Context, session *sbx.Session, interpreter string, model Model) (Summary, error) {
	sb := session.Sandbox()
	defer sb.Close()
	summarize := session.Function(Summarize, sbx.Timeout(10*time.Second)).In(sb)
	var wrong error
	for range 5 {
		script, err := model(ctx, wrong)
		if err != nil {
			return Summary{}, err
		}
		if err := sb.WriteFile(ctx, "script", []byte(script), 0o644); err != nil {
			return Summary{}, err
		}
		if wrong = runScript(ctx, sb, interpreter); wrong != nil {
			log.Printf("the script failed: %v", wrong)
			continue
		}
		summary, err := summarize.Call(ctx, "result.csv")
		if err == nil {
			return summary, nil
		}
		log.Printf("its result is of no use: %v", err)
		wrong = err
	}
	return Summary{}, fmt.Errorf("the model gave up: %w", wrong)
}

// runScript runs the script for at most ten seconds. The error has what it printed, for the model to read.
func runScript(ctx context.Context, sb *sbx.Sandbox, interpreter string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	output, err := sb.CommandContext(ctx, interpreter, "script").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%.2000s", err, output)
	}
	return nil
}

// Answers plays a model: it gives one answer after the other.
func Answers(scripts ...string) Model {
	return func(context.Context, error) (string, error) {
		if len(scripts) == 0 {
			return "", errors.New("no more ideas")
		}
		script := scripts[0]
		scripts = scripts[1:]
		return script, nil
	}
}

// A script that does not run, one whose result is too short, and a good one.
var python = []string{
	"import nosuchmodule\n",
	"open('result.csv', 'w').write('1,1\\n')\n",
	`with open("result.csv", "w") as file:
    for i in range(9):
        print(i, i * i, sep=",", file=file)
`,
}

func run(ctx context.Context, w io.Writer) error {
	session, err := sbx.Open(ctx)
	if err != nil {
		return err
	}
	defer session.Close()

	// A sandbox has the programs of this machine's /usr.
	if err := session.Sandbox().Command("python3", "-c", "").Run(); err != nil {
		return fmt.Errorf("this example needs python3 below /usr, which sandboxes share: install it (apt-get install python3): %w", err)
	}
	summary, err := Solve(ctx, session, "python3", Answers(python...))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d rows, median %g\n", summary.Rows, summary.Median)
	return session.Close()
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}
