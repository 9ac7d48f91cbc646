package main

import (
	"strings"

	"golang.org/x/tools/go/analysis/unitchecker"

	"github.com/sandboxfn/sbx/codegen/analyzer"
)

// vet answers go vet, which runs a -vettool with -V=full and -flags to learn about it, and then with the file that
// describes a package as the last argument. It returns if go vet isn't who asks.
func vet(args []string) {
	if len(args) == 0 {
		return
	}
	if last := args[len(args)-1]; last == "-V=full" || last == "-flags" || strings.HasSuffix(last, ".cfg") {
		unitchecker.Main(analyzer.Analyzer)
	}
}
