// Command gometrics measures Go source: lines, functions and cyclomatic complexity of every package of the standard
// library, or of any folder. It shows how to fan out over many inputs: a plain function ([Analyze]), a lazy sequence of
// inputs, and results as they come. Each package is parsed in a sandbox, which gets the package's files and nothing else.
//
//	go run ./examples/gometrics [-n sandboxes] [-root folder]
//
// Where the sandboxes are is the user's to choose, by SBX_DRIVER: SBX_DRIVER=docker, say. What runs in a container's image is a worker without
// libraries, which AutoBuild has built if the program isn't one itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	_ "github.com/sandboxfn/sbx/driver/docker"
	_ "github.com/sandboxfn/sbx/driver/kubernetes"
)

//go:generate go tool sbxgen

func main() {
	sandboxes := flag.Int("n", runtime.NumCPU(), "use at most `n` sandboxes")
	root := flag.String("root", "", "measure the packages below `folder` (default: the Go standard library)")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *root, *sandboxes)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gometrics:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string, sandboxes int) (err error) {
	if root == "" {
		if root, err = standardLibrary(ctx); err != nil {
			return err
		}
	}
	began := time.Now()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(sandboxes), sbx.DriverFromEnv(), sbx.AutoBuild())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	analyze := session.Function(Analyze)
	var all summary
	var unreadable []error // belongs to the walk until the loop has ended
	packages := walk(root, func(err error) { unreadable = append(unreadable, err) })
	shown := newProgress(os.Stderr)
	for result := range analyze.MapUnordered(ctx, packages) {
		if result.Index < 0 { // not a call's error but the run's: it was interrupted
			err = fmt.Errorf("after %d packages: %w", all.calls, result.Err)
			break
		}
		all.add(result.Input, result.Output, result.Err)
		shown.update(all.calls, result.Input.Path)
	}
	shown.end()
	all.sandboxes, all.took = session.SandboxCount(), time.Since(began)

	for _, err := range unreadable {
		fmt.Fprintln(os.Stderr, "not read:", err)
	}
	switch printErr := all.print(os.Stdout); {
	case printErr != nil:
		return printErr
	case err != nil:
		return err
	case len(all.failures) > 0:
		return fmt.Errorf("%d of %d calls failed", len(all.failures), all.calls)
	case all.calls == 0:
		return fmt.Errorf("no Go packages below %s", root)
	}
	return nil
}

// standardLibrary is where the source of the standard library is on this machine.
func standardLibrary(ctx context.Context) (string, error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w; name a folder with -root", err)
	}
	return filepath.Join(strings.TrimSpace(string(goroot)), "src"), nil
}
