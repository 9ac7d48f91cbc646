// Command sbxgen writes the code that registers the functions which a program wraps with sbx.
//
// Put one line into any file of a module, and run go generate ./... :
//
//	//go:generate go tool sbxgen
//
// It is for people who build programs with sbx; what it writes is described in package codegen. Wherever it is run, by
// hand or by go generate, it generates for the whole module around the current folder, so that one directive does.
// Arguments limit what is written to some of the module's packages.
//
// The flags are
//
//	-C dir            run in this folder
//	-tags list        build tags, comma-separated, as for go build
//	-platform list    build the workers for these platforms, too: linux/amd64,linux/arm64
//	-check            as the command check
//	-v                list the files that are written and removed
//	-version          as the command version
//
// The exit status is 0 if all is well, 1 if there are diagnostics, if the work failed, or if something isn't up
// to date where that was asked, and 2 for wrong usage. With diagnostics no file is touched.
//
// Other work is done by commands, each with -C, -tags, -v and -h:
//
//	sbxgen check                                list the generated files that would change
//	sbxgen diff                                 show how, and how workers would: "Train: field Job.Epochs added"
//	sbxgen list                                 list functions with types and positions
//	sbxgen worker [-platform list] [-o file]    build workers, into the cache that sessions look into, or into a file
//	sbxgen build [-platform list] [-o file]     build a program with its workers inside
//	sbxgen image -base image -push reference    put a worker on top of an image, for drivers that find it there
//	sbxgen version                              print the version
//
// It is a tool of go vet, too: go vet -vettool=$(go tool -n sbxgen) ./... makes the same checks.
//
// On a terminal a line says what is going on where that takes more than a few seconds: a first run has the go command compile all that
// the module imports.
//
// The cache is the folder sbx in the user's cache folder, or what SBX_CACHE names; what was not used for longest is removed when it
// has more than 2 GiB.
//
// A file that is no longer needed is removed; under go generate, which would miss it, it is emptied instead, and the next
// run by hand removes it. With -check an empty one may stay.
//
// # Diagnostics
//
// Each is a line "file:line:col: code: message" on standard error. A code keeps its meaning for good:
//
//	SBX001  the package can't be loaded or type-checked
//	SBX002  a function literal is wrapped
//	SBX003  a type can't be sent to a sandbox
//	SBX004  a method is wrapped
//	SBX005  a function that is only known at run time is wrapped
//	SBX006  nil is wrapped
//	SBX007  a type parameter of the surrounding code takes part
//	SBX008  a type declared inside a function takes part
//	SBX009  a wrapping method is used as a value
//	SBX010  a file that sbxgen didn't write has the name of one that it must write
//	SBX011  a file's name sorts after every name that the diverting file can have
//	SBX012  a session is opened by an init function or a package variable
//	SBX013  a wrapped function reads a package variable that only main's side of the program writes
//	SBX014  an interface takes part, and no type that implements it is registered
//	SBX015  a type is registered of which no value can be sent inside an interface
//
// SBX013 and SBX014 are warnings, and the line says so: they keep nothing from being written. docs/diagnostics.md has a section on
// each.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/codegen"
)

var usages = map[string]string{
	"generate": `usage: go tool sbxgen [flags] [packages]
       go tool sbxgen command [flags] [packages]

Sbxgen writes the code that registers the functions which a program wraps with
sbx: sbx_gen.go in the packages that wrap, and zz_sbx_gen.go in the main and test
packages that reach one. It generates for the whole module around the current
folder, by hand and under go generate, so one directive anywhere does:

	//go:generate go tool sbxgen

Packages limit what is written and diagnosed to some packages of the module.

The commands, each with flags of its own (go tool sbxgen command -h):

	check     say which generated files are stale, and write nothing
	diff      show what would change, in generated files and built workers
	list      list the wrapped functions
	worker    build workers: the program without its main, for sandboxes
	build     build a program with its workers inside
	image     put a worker on top of a container image
	version   print the version

flags:
`,
	"check": `usage: go tool sbxgen check [flags] [packages]

Check lists the generated files that would change, and exits with status 1 if
there are any, or if there are diagnostics. It writes nothing.

flags:
`,
	"diff": `usage: go tool sbxgen diff [flags] [packages]

Diff shows how the generated files would change, and how the workers that would
be built now differ from those that were built last. It exits with status 1 if
there is a difference, and writes nothing.

flags:
`,
	"list": `usage: go tool sbxgen list [flags] [packages]

List prints the wrapped functions, one a line: name, type, where it is declared,
and the places where it is wrapped, with tabs between.

flags:
`,
	"worker": `usage: go tool sbxgen worker [flags] [packages]

Worker builds the workers of main packages; without packages, of all in the
module that reach a wrapped function. A worker is the program without its main:
static, small, for any platform. It goes into a cache, where sessions find it,
and is built only if what goes into it has changed.

flags:
`,
	"build": `usage: go tool sbxgen build [flags] [package]

Build builds a program with its workers inside, so that one file is all there is
to deploy. It has the flags that GOFLAGS has.

flags:
`,
	"image": `usage: go tool sbxgen image -base image -push reference [flags] [package]
       go tool sbxgen image -base image -o file.tar -tag reference [flags] [package]

Image builds a worker, as the command worker does, and puts it on top of a
container image, which it pushes to a registry or writes to a file. It needs no
container engine. The same worker on the same base gives the same image.

flags:
`,
	"version": "usage: go tool sbxgen version\n",
}

func main() {
	vet(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second one ends this at once
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// A command is what one word after sbxgen does; generate is what happens without one.
type command func(ctx context.Context, s *sbxgen, args []string) error

var commands = map[string]command{
	"generate": generate, "check": check, "diff": show, "list": list, "worker": worker, "build": build, "image": image, "version": version,
}

// run is the whole command. A first argument that is the name of a command is one, and not a package.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s := &sbxgen{stdout: stdout, stderr: stderr, terminal: isTerminal(stderr)}
	name, command := "generate", command(generate)
	if len(args) > 0 && commands[args[0]] != nil {
		name, command = args[0], commands[args[0]]
		args = args[1:]
	}
	s.flags = flag.NewFlagSet("sbxgen "+name, flag.ContinueOnError)
	s.flags.SetOutput(stderr)
	s.flags.StringVar(&s.dir, "C", "", "run in folder `dir`")
	s.flags.StringVar(&s.tags, "tags", "", "comma-separated build `tags`, as for go build")
	s.flags.BoolVar(&s.verbose, "v", false, "say more: which files are written and removed, which packages make a worker large")
	s.flags.Usage = func() {
		fmt.Fprint(stderr, usages[name])
		s.flags.PrintDefaults()
	}
	err := command(ctx, s, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errReported):
		return 1
	case errors.Is(err, errUsage):
		return 2
	}
	if ctx.Err() != nil { // what failed then failed for that
		fmt.Fprintln(stderr, "sbxgen: interrupted")
		return 1
	}
	fmt.Fprintln(stderr, "sbxgen:", err)
	if _, ok := errors.AsType[*codegen.UsageError](err); ok {
		if arg := s.flags.Arg(0); name == "generate" && arg != "" && !strings.ContainsAny(arg, "./\\") {
			fmt.Fprintf(stderr, "if %s is to be a command, it is the first argument: go tool sbxgen -h lists them\n", arg)
		}
		return 2
	}
	return 1
}

var (
	errReported = errors.New("what is wrong was printed")
	errUsage    = errors.New("the usage was printed")
)

// sbxgen is one run of the command.
type sbxgen struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is one
	flags          *flag.FlagSet

	dir, tags string
	verbose   bool
}

// parse reads the flags, to which the command may have added its own.
func (s *sbxgen) parse(args []string) error {
	err := s.flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err != nil {
		return errUsage // package flag has printed it
	}
	if s.dir == "" {
		return nil
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return &codegen.UsageError{Reason: fmt.Sprintf("-C: %v", err)}
	}
	if !info.IsDir() {
		return &codegen.UsageError{Reason: fmt.Sprintf("-C %s: it is a file; name the folder to run in", s.dir)}
	}
	return nil
}

// patience is how long something may take before a line says what is going on.
const patience = 3 * time.Second

// isTerminal takes every device for one, which does no harm.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// slow prints a line to a terminal if what is done until the function that it returns is called takes long.
func (s *sbxgen) slow(format string, args ...any) (done func()) {
	if !s.terminal {
		return func() {}
	}
	finished, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-time.After(patience):
			fmt.Fprintf(s.stderr, "sbxgen: "+format+"\n", args...)
		case <-finished:
		}
	}()
	return func() {
		close(finished)
		<-ended
	}
}

// report prints diagnostics, and returns an error if there are any but warnings.
func (s *sbxgen) report(diagnostics []codegen.Diagnostic) error {
	if len(diagnostics) == 0 {
		return nil
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	failed := false
	for _, diagnostic := range diagnostics {
		fmt.Fprintln(s.stderr, diagnostic.Format(dir))
		failed = failed || !diagnostic.Code.Warning()
	}
	if failed {
		return errReported
	}
	return nil
}

// inDir is a path that the user gave: relative to the folder of the run.
func (s *sbxgen) inDir(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(s.dir, path)
}

// relative is a path as it is printed: relative to the folder of the run.
func (s *sbxgen) relative(path string) string {
	if dir, err := filepath.Abs(s.dir); err == nil {
		if rel, err := filepath.Rel(dir, path); err == nil {
			return rel
		}
	}
	return path
}

func version(_ context.Context, s *sbxgen, args []string) error {
	if err := s.parse(args); err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, "sbxgen", sbxVersion(), runtime.Version())
	return nil
}

// sbxVersion is the version of the module that the command was built from.
func sbxVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
