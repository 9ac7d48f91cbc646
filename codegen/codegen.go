// Package codegen finds the functions that a program wraps with sbx, checks that they can run in a sandbox, and writes
// the code that registers them. It is the library behind the command sbxgen, which is what people run.
//
// The idea: the package that wraps a function can name it, be it unexported, internal, generic or another module's. So
// the registration is written into that package, as ordinary Go that the compiler checks: a changed signature is a
// compile error. Main and test packages from which a wrapping package can be reached get one more file, sorted last,
// whose init hands the process to the worker when it was started as one; so the program itself is the worker.
//
// What is written, in the folder of the package:
//
//	sbx_gen.go                      functions wrapped in ordinary files
//	sbx_gen_test.go                 functions wrapped in the _test.go files of the package itself
//	sbx_gen_external_test.go        functions wrapped in package x_test
//	zz_sbx_gen.go                   the diverting init of a main package
//	zz_sbx_gen_test.go              the diverting init of in-package tests
//	zz_sbx_gen_external_test.go     the diverting init of package x_test
//
// Besides functions, a package's files register error variables and error types, so that errors.Is and errors.As work on
// what comes back: all of the package that wraps, and the exported ones of the packages that declare the wrapped
// functions, of the main module's packages which those import, directly or not, and of the standard library's which any of them
// imports. Generic types, those declared inside functions and what files for some platforms only declare are left out. A
// type whose state can't be sent isn't registered, and its errors arrive as text; a comment in its place says why:
//
//	// ParseError arrives as text: ParseError.line: the field is unexported, so it would be lost.
//
// Every generated file carries the build constraint !sbxgen, and the packages are loaded with the tag sbxgen: old
// output, however stale or broken, is never looked at. Only the files that the current platform and the tags select are
// seen; a function wrapped for another platform only must be generated there. A file of the user's with that constraint
// isn't seen either: that is where a test can wrap what must be refused.
//
// [Find], [CheckType] and [Summarize] need nothing but a type-checked package, and [CheckProgram] nothing but summaries, so
// that the analyzer of package analyzer can run the same checks.
package codegen

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sandboxfn/sbx/internal/artifact"
	"golang.org/x/tools/go/packages"
)

// sbxPath is the import path of package sbx. It is derived from this package's own, so that a fork can move.
var sbxPath = path.Dir(reflect.TypeFor[Config]().PkgPath())

// Config says what to generate for.
type Config struct {
	// Dir is the folder to run in: patterns and the positions of diagnostics are relative to it, and the module around
	// it is the one generated for. Empty means the current folder.
	Dir string
	// Patterns limits what is written and diagnosed to these packages of the module. Empty means all of them. The whole
	// module is loaded in any case, for what reaches what can't be told otherwise.
	Patterns []string
	// Tags are build tags, comma-separated; they replace those of GOFLAGS as they do for the go command.
	Tags string
	// Check leaves all files as they are; the result says what would change. A file without contents, as GoGenerate
	// leaves it, may stay.
	Check bool
	// Stamps is a folder in which to remember that nothing was to do, so that the next run can tell by hashing the module's
	// files that it is so still. Empty means that every run loads the module.
	Stamps string
	// GoGenerate says that go generate runs this. It goes on to read every file that was there when it began, so the
	// files that are no longer needed are not removed then: only their contents are.
	GoGenerate bool
}

// Result is what a run found and did.
type Result struct {
	// Diagnostics are sorted by position. If one isn't a warning, no file was touched.
	Diagnostics []Diagnostic
	// Files are the generated files, sorted by path.
	Files []File
	// Excluded are, where nothing at all is wrapped, the module's files that import sbx and that build constraints leave out, sorted.
	Excluded []string
}

// A File is one generated file.
type File struct {
	Path   string // absolute
	Change Change
	Source []byte // what it holds now, or with Config.Check would hold; nil if it is removed
}

// Change is what a run did to a file, or with [Config.Check] would do.
type Change string

// The changes.
const (
	Unchanged Change = "unchanged"
	Written   Change = "written"
	Removed   Change = "removed"
	Emptied   Change = "emptied" // it isn't needed, and does nothing
)

// UsageError says that there was nothing to run on: no module, no such package.
type UsageError struct{ Reason string }

func (e *UsageError) Error() string { return e.Reason }

// Run generates. Findings in the user's code are not an error: they are in the result's diagnostics. The error is a
// [*UsageError], or says that the go command or the file system failed.
func Run(ctx context.Context, config Config) (*Result, error) {
	module, old, err := look(ctx, config)
	if err != nil {
		return nil, err
	}
	var s *stamp
	if config.Stamps != "" {
		s, _ = module.newStamp(config.Stamps, config, old)
		if s != nil && s.fresh(old) {
			result := &Result{}
			for path := range old {
				result.Files = append(result.Files, File{Path: path, Change: Unchanged})
			}
			slices.SortFunc(result.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
			return result, nil
		}
	}
	a, err := analyse(ctx, config, module, old)
	if err != nil {
		return nil, err
	}
	if len(a.diagnostics) > 0 {
		return &Result{Diagnostics: a.diagnostics}, nil
	}
	// Only now: of code that is wrong, too little is known.
	warnings := tidy(checkPrograms(a.units, a.selected))
	files, err := apply(a.wanted, a.unneeded, config)
	if err != nil {
		return nil, err
	}
	excluded, err := excludedFiles(module.root, a.units)
	if err != nil {
		return nil, err
	}
	if s != nil && len(warnings) == 0 && len(excluded) == 0 && (!config.Check || !slices.ContainsFunc(files, func(f File) bool { return f.Change != Unchanged })) {
		s.keep(module.root)
	}
	return &Result{Diagnostics: warnings, Files: files, Excluded: excluded}, nil
}

// excludedFiles returns the files that import sbx and that no unit has, if nothing is wrapped in any.
func excludedFiles(root string, units []*unit) ([]string, error) {
	loaded := map[string]bool{}
	for _, u := range units {
		if u.wrapping {
			return nil, nil
		}
		for _, file := range u.pkg.GoFiles {
			loaded[file] = true
		}
	}
	var excluded []string
	err := walkModule(root, false, func(path string, entry fs.DirEntry) error {
		if !strings.HasSuffix(path, ".go") || loaded[path] || artifact.IsGenerated(entry.Name()) || !entry.Type().IsRegular() {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return nil //nolint:nilerr // what can't be read is no matter: it isn't built
		}
		if slices.ContainsFunc(file.Imports, func(spec *ast.ImportSpec) bool { return spec.Path.Value == strconv.Quote(sbxPath) }) {
			excluded = append(excluded, path)
		}
		return nil
	})
	return excluded, err
}

// An analysis is what is known of a module before anything is written.
type analysis struct {
	module      *module
	units       []*unit
	graph       *graph
	selected    map[string]bool   // package path → it is one that the patterns choose
	wanted      map[string][]byte // path → source of a generated file of the selected packages
	unneeded    map[string][]byte // path → what a generated file that isn't needed holds when it is emptied
	diagnostics []Diagnostic
}

// look finds the module and the generated files in it.
func look(ctx context.Context, config Config) (*module, map[string]oldFile, error) {
	module, err := openModule(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	old, err := generatedFiles(module.root)
	if err != nil {
		return nil, nil, fmt.Errorf("look for generated files: %w", err)
	}
	return module, old, nil
}

// inspect analyses what look finds.
func inspect(ctx context.Context, config Config) (*analysis, error) {
	module, old, err := look(ctx, config)
	if err != nil {
		return nil, err
	}
	return analyse(ctx, config, module, old)
}

func analyse(ctx context.Context, config Config, module *module, old map[string]oldFile) (*analysis, error) {
	roots, err := module.load(ctx, old)
	if err != nil {
		return nil, err
	}
	selected, err := module.selected(ctx, config.Patterns, roots)
	if err != nil {
		return nil, err
	}

	var diagnostics []Diagnostic
	units := make([]*unit, 0, len(roots))
	for _, pkg := range roots {
		if strings.HasSuffix(pkg.ID, ".test") {
			continue // the main package that go test makes
		}
		u := newUnit(pkg)
		broken := loadErrors(pkg, old)
		if selected[u.path] {
			diagnostics = append(diagnostics, broken...)
		}
		if len(u.files) == 0 {
			continue
		}
		units = append(units, u)
		found := u.find()
		u.wrapping = len(u.wraps) > 0
		for _, d := range found {
			u.wrapping = u.wrapping || d.Code != OpenedInInit && d.Code != BadRegistration
			if selected[u.path] && (d.Code != Broken || len(broken) == 0) {
				diagnostics = append(diagnostics, d)
			}
		}
	}

	graph := newGraph(units)
	wanted, inTheWay := plan(units, graph, selected, old)
	return &analysis{
		module: module, units: units, graph: graph, selected: selected,
		wanted: wanted, unneeded: stale(old, wanted, units, selected),
		diagnostics: tidy(append(diagnostics, inTheWay...)),
	}, nil
}

// checkPrograms returns warnings about the module's programs, at wraps in selected packages.
func checkPrograms(units []*unit, selected map[string]bool) []Diagnostic {
	if !slices.ContainsFunc(units, func(u *unit) bool { return u.kind == ordinary && len(u.wraps) > 0 }) {
		return nil
	}
	summaries := map[*packages.Package]*Summary{}
	chosen := map[string]bool{} // folders
	for _, u := range units {
		if u.kind == ordinary {
			summaries[u.pkg] = Summarize(u.pkg.Fset, u.pkg.Types, u.pkg.TypesInfo, u.files, u.wraps)
			chosen[u.dir] = selected[u.path]
		}
	}
	var diagnostics []Diagnostic
	for pkg := range summaries {
		if pkg.Name != "main" {
			continue
		}
		var parts []*Summary
		packages.Visit([]*packages.Package{pkg}, nil, func(imported *packages.Package) {
			if summary := summaries[imported]; summary != nil {
				parts = append(parts, summary)
			} else if imported.Imports[registryPath] != nil && !OfSbx(imported.PkgPath) {
				parts = append(parts, &Summary{Path: imported.PkgPath, RegistersMore: true})
			}
		})
		for _, d := range CheckProgram(pkg.PkgPath, parts) {
			if chosen[filepath.Dir(d.Position.Filename)] {
				diagnostics = append(diagnostics, d)
			}
		}
	}
	return diagnostics
}

// OfSbx reports whether a package is one of sbx's own.
func OfSbx(path string) bool { return path == sbxPath || strings.HasPrefix(path, sbxPath+"/") }

// A unit is a package as files are generated for it: an ordinary package, the _test.go files of a package together with
// its ordinary ones, or an external test package.
type unit struct {
	pkg   *packages.Package
	path  string // of the package that is tested, or of the package itself
	dir   string
	kind  unitKind
	files []*ast.File // without those that another unit looks at: an in-package test has its _test.go files only
	wraps []Wrap

	wrapping bool // it wraps, be it wrongly
}

type unitKind int

const (
	ordinary unitKind = iota
	inPackageTest
	externalTest
)

func newUnit(pkg *packages.Package) *unit {
	u := &unit{pkg: pkg, path: pkg.PkgPath, dir: pkg.Dir, files: pkg.Syntax}
	switch {
	case pkg.ForTest != "" && pkg.PkgPath == pkg.ForTest:
		u.kind = inPackageTest
		u.files = slices.DeleteFunc(slices.Clone(pkg.Syntax), func(file *ast.File) bool {
			return !isTestFile(pkg.Fset.Position(file.Package).Filename)
		})
	case pkg.ForTest != "":
		u.kind, u.path = externalTest, pkg.ForTest
	}
	return u
}

// find fills in the wraps of the unit.
func (u *unit) find() []Diagnostic {
	var diagnostics []Diagnostic
	u.wraps, diagnostics = Find(u.pkg.Fset, u.pkg.Types, u.pkg.TypesInfo, u.files)
	return diagnostics
}

// qualifier writes types in comments, for which nothing is imported.
func (u *unit) qualifier(pkg *types.Package) string {
	if pkg.Path() == u.pkg.PkgPath {
		return ""
	}
	return pkg.Name()
}

func isTestFile(name string) bool { return strings.HasSuffix(name, "_test.go") }

// absolute returns dir as an absolute path; empty is the current folder.
func absolute(dir string) (string, error) {
	if dir == "" {
		return os.Getwd()
	}
	return filepath.Abs(dir)
}
