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
//	-C dir      run in this folder
//	-tags list  build tags, comma-separated, as for go build
//	-check      write nothing; list the files that would change, and exit with status 1 if there are any
//	-v          list the files that are written and removed
//	-version    print the version
//
// The exit status is 0 if all is well, 1 if there are diagnostics, if the work failed, or if with -check a file isn't up
// to date, and 2 for wrong usage. With diagnostics no file is touched.
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
	"runtime/debug"

	"github.com/sandboxfn/sbx/codegen"
)

const usage = `usage: go tool sbxgen [flags] [packages]

Sbxgen writes the code that registers the functions which a program wraps with
sbx: sbx_gen.go in the packages that wrap, and zz_sbx_gen.go in the main and test
packages that reach one. It generates for the whole module around the current
folder, by hand and under go generate, so one directive anywhere does:

	//go:generate go tool sbxgen

Packages limit what is written and diagnosed to some packages of the module.

flags:
`

func main() {
	vet(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sbxgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("C", "", "run in folder `dir`")
	tags := flags.String("tags", "", "comma-separated build `tags`, as for go build")
	check := flags.Bool("check", false, "write nothing; list the files that would change and exit with status 1 if there are any")
	verbose := flags.Bool("v", false, "list the files that are written and removed")
	version := flags.Bool("version", false, "print the version")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if *version {
		fmt.Fprintln(stdout, "sbxgen", sbxVersion())
		return 0
	}
	config := codegen.Config{
		Dir: *dir, Patterns: flags.Args(), Tags: *tags, Check: *check,
		GoGenerate: os.Getenv("GOFILE") != "",
	}
	return generate(ctx, config, *verbose, stdout, stderr)
}

func generate(ctx context.Context, config codegen.Config, verbose bool, stdout, stderr io.Writer) int {
	result, err := codegen.Run(ctx, config)
	if err != nil {
		fmt.Fprintln(stderr, "sbxgen:", err)
		if _, ok := errors.AsType[*codegen.UsageError](err); ok {
			return 2
		}
		return 1
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		fmt.Fprintln(stderr, "sbxgen:", err)
		return 1
	}
	status := 0
	for _, diagnostic := range result.Diagnostics {
		fmt.Fprintln(stderr, diagnostic.Format(dir))
		if !diagnostic.Code.Warning() {
			status = 1
		}
	}
	failed := status != 0
	for _, file := range result.Files {
		if file.Change == codegen.Unchanged {
			continue
		}
		name := file.Path
		if rel, err := filepath.Rel(dir, name); err == nil {
			name = rel
		}
		switch {
		case config.Check:
			fmt.Fprintf(stdout, "%s would be %s\n", name, file.Change)
			status = 1
		case verbose:
			fmt.Fprintf(stdout, "%s %s\n", file.Change, name)
		}
	}
	if config.Check && !failed && status == 1 {
		fmt.Fprintln(stderr, "sbxgen: generated files are not up to date: run go tool sbxgen")
	}
	return status
}

// sbxVersion is the version of the module that the command was built from.
func sbxVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
