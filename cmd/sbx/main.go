// Command sbx looks after the files that programs with sbx leave. It is for people who run such programs.
//
//	sbx journal list FILE                        what a journal has, by function and version
//	sbx journal export FILE                      its results and errors, one JSON object a line
//	sbx journal compact [-function name] [-failed] [-keep version] FILE
//
// Run it with go run github.com/sandboxfn/sbx/cmd/sbx in a module that uses sbx, or make it a tool of the module (go get -tool).
//
// Export shows structs with their fields' names, but for those within interfaces; of bytes, of types that have an encoding of their own, and of what it can't read, base64; of maps
// whose keys are neither texts nor numbers, a list of pairs.
// Compact writes a journal anew, without the room that it does not use; with -failed without errors, too, so that their inputs are computed
// again; and with -keep without the other versions; with -function that is about one function only. The new file takes the old one's place only when it is whole.
//
// The exit status is 0 if all is well, 1 if not, and 2 for wrong usage.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage: sbx journal list FILE
       sbx journal export FILE
       sbx journal compact [-function name] [-failed] [-keep version] FILE

Journals are what maps with the option sbx.Journal write. List shows what one
has, export its results and errors as JSON, and compact writes it anew, without
room that is not used. Compact also removes, of the function with that name or
of all,

	-failed    errors, so that their inputs are computed again
	-keep      what is of another version
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// errUsage says that the arguments make no sense; what is wrong with them was printed.
var errUsage = errors.New("usage")

func run(args []string, stdout, stderr io.Writer) int {
	err := command(args, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintln(stderr, "sbx:", err)
	return 1
}

func command(args []string, stdout, stderr io.Writer) error {
	wrong := func(format string, a ...any) error {
		fmt.Fprintf(stderr, "sbx: "+format+"\n\n%s", append(a, usage)...)
		return errUsage
	}
	switch {
	case len(args) == 0:
		return wrong("no command")
	case args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help":
		fmt.Fprint(stdout, usage)
		return nil
	case args[0] != "journal":
		return wrong("there is no command %q", args[0])
	case len(args) == 1:
		return wrong("journal needs a command: list, export or compact")
	}
	flags := flag.NewFlagSet("sbx journal "+args[1], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	var failed bool
	var function, keep string
	run := map[string]func(path string) error{
		"list":    func(path string) error { return list(path, stdout) },
		"export":  func(path string) error { return export(path, stdout) },
		"compact": func(path string) error { return compact(path, failed, function, keep, stdout) },
	}[args[1]]
	if run == nil {
		return wrong("journal has no command %q", args[1])
	}
	if args[1] == "compact" {
		flags.BoolVar(&failed, "failed", false, "")
		flags.StringVar(&keep, "keep", "", "")
		flags.StringVar(&function, "function", "", "")
	}
	switch err := flags.Parse(args[2:]); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case flags.NArg() != 1:
		return wrong("journal %s needs one file", args[1])
	}
	return run(flags.Arg(0))
}
