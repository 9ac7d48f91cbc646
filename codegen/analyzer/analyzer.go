// Package analyzer runs the checks of sbxgen as a go/analysis analyzer, for editors, linters and go vet. Its audience is whoever
// builds such tools; sbxgen itself serves go vet:
//
//	go vet -vettool=$(go tool -n sbxgen) ./...
//
// What needs the whole module is not seen here: files in the way of generated ones. Of a package variable that only main's side
// writes it is known what the packages of the main module say, and the finding is reported in the main package: where the function reads
// the variable, if that is there, or else where main writes it.
package analyzer

import (
	"fmt"
	"go/token"
	"path"
	"reflect"
	"strings"

	"github.com/sandboxfn/sbx/codegen"
	"golang.org/x/tools/go/analysis"
)

// Analyzer reports functions that are wrapped and can't run in a sandbox. The category of a diagnostic is its code.
var Analyzer = &analysis.Analyzer{
	Name:      "sbx",
	Doc:       "report functions that are wrapped with sbx and can't run in a sandbox as they do here\n\nThe codes are explained in docs/diagnostics.md of sbx.",
	Run:       run,
	FactTypes: []analysis.Fact{new(summary)},
}

// A summary is what one package of the main module does with package variables.
type summary struct{ codegen.Summary }

func (*summary) AFact() {}

func (s *summary) String() string { return fmt.Sprintf("summary of %d functions", len(s.Funcs)) }

// sbxPath is the import path of package sbx, whose methods call each other.
var sbxPath = path.Dir(reflect.TypeFor[codegen.Config]().PkgPath())

func run(pass *analysis.Pass) (any, error) {
	if pass.Pkg.Path() == sbxPath {
		return nil, nil
	}
	wraps, diagnostics := codegen.Find(pass.Fset, pass.Pkg, pass.TypesInfo, pass.Files)
	for _, d := range diagnostics {
		report(pass, d.Pos, d.Code, d.Message)
	}
	if !inMainModule(pass) {
		return nil, nil
	}
	own := codegen.Summarize(pass.Fset, pass.Pkg, pass.TypesInfo, pass.Files, wraps)
	pass.ExportPackageFact(&summary{*own})
	if pass.Pkg.Name() != "main" {
		return nil, nil
	}
	all := []*codegen.Summary{own}
	for _, fact := range pass.AllPackageFacts() {
		if other, ok := fact.Fact.(*summary); ok && fact.Package != pass.Pkg {
			all = append(all, &other.Summary)
		}
	}
	for _, problem := range codegen.CheckState(pass.Pkg.Path(), all) {
		if pos := positionIn(pass, problem); pos.IsValid() {
			report(pass, pos, codegen.MainState, problem.Message)
		}
	}
	return nil, nil
}

func report(pass *analysis.Pass, pos token.Pos, code codegen.Code, message string) {
	pass.Report(analysis.Diagnostic{Pos: pos, Category: string(code), Message: string(code) + ": " + message})
}

// inMainModule reports whether a package's source is the user's. Summaries of all others would cost much and say little.
func inMainModule(pass *analysis.Pass) bool {
	if pass.Module != nil && pass.Module.Path != "" {
		return pass.Module.Version == ""
	}
	first, _, _ := strings.Cut(pass.Pkg.Path(), "/")
	return strings.Contains(first, ".") || pass.Pkg.Name() == "main" || !isStandard(first)
}

// isStandard reports whether the first element of an import path is one of the standard library's. It is asked only where nothing is
// known of modules.
func isStandard(first string) bool {
	switch first {
	case "archive", "bufio", "bytes", "cmp", "compress", "container", "context", "crypto", "database", "debug", "embed", "encoding", "errors",
		"expvar", "flag", "fmt", "go", "hash", "html", "image", "index", "internal", "io", "iter", "log", "maps", "math", "mime", "net", "os",
		"path", "plugin", "reflect", "regexp", "runtime", "slices", "sort", "strconv", "strings", "structs", "sync", "syscall", "testing",
		"text", "time", "unicode", "unique", "unsafe", "vendor", "weak":
		return true
	}
	return false
}

// positionIn is where a problem shows in the package that is looked at; invalid if it does nowhere.
func positionIn(pass *analysis.Pass, problem codegen.StateProblem) token.Pos {
	for _, place := range []codegen.Place{problem.Read, problem.Write} {
		for _, file := range pass.Files {
			if pass.Fset.Position(file.Package).Filename == place.File {
				return place.Pos
			}
		}
	}
	return token.NoPos
}
