// Package analyzer has the checks of sbxgen as an analyzer of golang.org/x/tools/go/analysis, for go vet, editors and
// linters:
//
//	go vet -vettool=$(go tool -n sbxgen) ./...
//
// It says what sbxgen says, with the same codes, but for what is about generated files (SBX010 and SBX011) and about code
// that doesn't compile (SBX001). go vet knows no warnings: it fails where sbxgen warns (SBX013 and SBX014).
//
// Like sbxgen it doesn't look at files with the build constraint !sbxgen.
//
// An analyzer sees one package at a time, and facts of those that it imports. So SBX013 and SBX014, which are about whole
// programs, are reported when the main package is looked at: where it wraps the function, and at the package clause if
// another package does. A run that doesn't take in the main package doesn't report them, an editor shows them in the
// main package's files only, and drivers that analyze without facts see no further than the main package itself.
package analyzer

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"

	"github.com/sandboxfn/sbx/codegen"
)

// Analyzer reports functions that are wrapped with sbx and can't run in a sandbox as they are.
var Analyzer = &analysis.Analyzer{
	Name:      "sbx",
	Doc:       "report functions wrapped with sbx that can't run in a sandbox as they are\n\nEach code is explained in docs/diagnostics.md of github.com/sandboxfn/sbx.",
	Run:       run,
	FactTypes: []analysis.Fact{(*summary)(nil)},
}

// A summary is the fact that is kept of a package.
type summary struct{ codegen.Summary }

func (*summary) AFact() {}

func (s *summary) String() string { return "summary of " + s.Path }

// GobEncode writes JSON, which has maps in the order of their keys: the bytes of a fact must be the same each time.
func (s *summary) GobEncode() ([]byte, error) { return json.Marshal(s.Summary) }

// GobDecode reads what GobEncode wrote.
func (s *summary) GobDecode(data []byte) error { return json.Unmarshal(data, &s.Summary) }

func run(pass *analysis.Pass) (any, error) {
	files := codegen.Visible(pass.Files)
	wraps, found := codegen.Find(pass.Fset, pass.Pkg, pass.TypesInfo, files)
	for _, d := range found {
		if d.Code != codegen.Broken {
			pass.Report(diagnostic(d.Pos, d))
		}
	}
	own := summarize(pass, files, wraps)
	if own == nil {
		return nil, nil
	}
	if pass.Pkg.Name() != "main" {
		pass.ExportPackageFact(&summary{*own})
		return nil, nil
	}
	parts := []*codegen.Summary{own}
	for _, fact := range pass.AllPackageFacts() {
		if s, ok := fact.Fact.(*summary); ok && fact.Package != pass.Pkg {
			parts = append(parts, &s.Summary)
		}
	}
	for _, d := range codegen.CheckProgram(pass.Pkg.Path(), parts) {
		pos := pass.Files[0].Name.Pos()
		i := slices.IndexFunc(wraps, func(wrap codegen.Wrap) bool { return pass.Fset.Position(wrap.Pos) == d.Position })
		if i >= 0 {
			pos = wraps[i].Pos
		} else {
			d.Message += fmt.Sprintf(" (wrapped in %s:%d)", filepath.Base(d.Position.Filename), d.Position.Line)
		}
		pass.Report(diagnostic(pos, d))
	}
	return nil, nil
}

func diagnostic(pos token.Pos, d codegen.Diagnostic) analysis.Diagnostic {
	return analysis.Diagnostic{Pos: pos, Category: string(d.Code), Message: string(d.Code) + ": " + d.Message}
}

// summarize returns the package's summary. Of packages of other modules it says only that they register types, and there
// is none of those that don't.
func summarize(pass *analysis.Pass, files []*ast.File, wraps []codegen.Wrap) *codegen.Summary {
	if pass.Module != nil && pass.Module.Path != "" && (pass.Module.Main || pass.Module.Version == "") {
		return codegen.Summarize(pass.Fset, pass.Pkg, pass.TypesInfo, files, wraps)
	}
	for _, imported := range pass.Pkg.Imports() {
		if imported.Path() == registryPath && !codegen.OfSbx(pass.Pkg.Path()) {
			return &codegen.Summary{Path: pass.Pkg.Path(), RegistersMore: true}
		}
	}
	return nil
}

// registryPath is the import path of package registry.
var registryPath = strings.TrimSuffix(reflect.TypeFor[codegen.Summary]().PkgPath(), "codegen") + "registry"
