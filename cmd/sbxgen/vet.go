package main

import (
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/codegen/analyzer"
	"golang.org/x/tools/go/analysis/unitchecker"
)

// isVet reports whether go vet has started this program, by the arguments that it gives to its tools.
func isVet(args []string) bool {
	if len(args) == 0 {
		return false
	}
	return slices.Equal(args, []string{"-V=full"}) || slices.Equal(args, []string{"-flags"}) || strings.HasSuffix(args[len(args)-1], ".cfg")
}

// vet serves go vet, and does not return.
func vet() { unitchecker.Main(analyzer.Analyzer) }
