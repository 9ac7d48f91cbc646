package codegen

import (
	"bytes"
	"fmt"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"

	"github.com/sandboxfn/sbx/internal/artifact"
	"golang.org/x/tools/go/packages"
)

// The names of the files, by kind of unit.
var (
	registrationNames = [...]string{"sbx_gen.go", "sbx_gen_test.go", "sbx_gen_external_test.go"}
	// A diverting file has as many z's more in front as it needs to sort last.
	divertingNames = [...]string{"zz_sbx_gen.go", "zz_sbx_gen_test.go", "zz_sbx_gen_external_test.go"}
)

// plan returns the source of every generated file of the selected packages by its path, and a diagnostic for each that
// a file of the user's stands in the way of.
func plan(units []*unit, graph *graph, selected map[string]bool, old map[string]oldFile) (map[string][]byte, []Diagnostic) {
	wanted := map[string][]byte{}
	var diagnostics []Diagnostic
	want := func(path string, source []byte) {
		if file, ok := old[path]; ok && !file.ours {
			diagnostics = append(diagnostics, Diagnostic{
				Code:     InTheWay,
				Position: token.Position{Filename: path, Line: 1, Column: 1},
				Message:  fmt.Sprintf("sbxgen must write a file of this name and didn't write the one that is here, which lacks the line %q: rename it, or delete it if sbxgen wrote it once", header),
			})
		}
		wanted[path] = source
	}

	byPath := map[string][]*types.Package{} // all that share the files of a folder, tests included
	for _, u := range units {
		byPath[u.pkg.PkgPath] = append(byPath[u.pkg.PkgPath], u.pkg.Types)
	}
	// Sorted by kind: what an ordinary file registers its tests needn't.
	sorted := slices.SortedStableFunc(slices.Values(units), func(a, b *unit) int { return int(a.kind - b.kind) })
	already := map[string]map[string]bool{}
	for _, u := range sorted {
		if !selected[u.path] {
			continue
		}
		taken := nameTaken(byPath[u.pkg.PkgPath])
		if already[u.pkg.PkgPath] == nil {
			already[u.pkg.PkgPath] = map[string]bool{}
		}
		if source := registration(u, already[u.pkg.PkgPath], taken); source != nil {
			want(filepath.Join(u.dir, registrationNames[u.kind]), source)
		}
		if u.kind == ordinary && u.pkg.Name != "main" || !graph.reaches(u.pkg) {
			continue
		}
		name, last := divertingName(u)
		if name == "" {
			diagnostics = append(diagnostics, Diagnostic{
				Code:     SortsLast,
				Position: token.Position{Filename: last, Line: 1, Column: 1},
				Message:  "sbxgen must write a file that sorts after this one, and no name does: rename it to start with a letter of a to z",
			})
			continue
		}
		want(filepath.Join(u.dir, name), diverting(u, taken))
	}
	return wanted, diagnostics
}

// maxName is as long as file systems let a name be.
const maxName = 255

// divertingName returns the name of the unit's diverting file, which sorts after every other file: the compiler runs
// init functions in that order. If a file can't be passed it returns no name, and that file.
func divertingName(u *unit) (name, last string) {
	for _, file := range slices.Concat(u.pkg.GoFiles, u.pkg.IgnoredFiles) {
		base := filepath.Base(file)
		if isTestFile(base) != (u.kind != ordinary) || artifact.IsGenerated(base) || filepath.Dir(file) != u.dir {
			continue
		}
		if last == "" || base > filepath.Base(last) {
			last = file
		}
	}
	name = divertingNames[u.kind]
	for name <= filepath.Base(last) {
		if len(name) > maxName {
			return "", last
		}
		name = "z" + name
	}
	return name, ""
}

// A graph tells which packages can reach one that wraps.
type graph struct {
	ordinary map[string]bool // package path → its ordinary files wrap
	tests    map[string]bool // package ID → its _test.go files wrap
	module   map[string]bool // package path → it is one of the packages that were looked at
	reached  map[*packages.Package]bool
}

func newGraph(units []*unit) *graph {
	g := &graph{
		ordinary: map[string]bool{}, tests: map[string]bool{}, module: map[string]bool{},
		reached: map[*packages.Package]bool{},
	}
	for _, u := range units {
		g.module[u.pkg.PkgPath] = true
		if !u.wrapping {
			continue
		}
		if u.kind == ordinary {
			g.ordinary[u.pkg.PkgPath] = true
		} else {
			g.tests[u.pkg.ID] = true
		}
	}
	return g
}

func (g *graph) reaches(pkg *packages.Package) bool {
	if reached, ok := g.reached[pkg]; ok {
		return reached
	}
	reached := g.wraps(pkg)
	for _, imported := range pkg.Imports {
		reached = g.reaches(imported) || reached
	}
	g.reached[pkg] = reached
	return reached
}

// wraps reports whether the package itself wraps. A package of another module does if it has a generated file that
// registers something.
func (g *graph) wraps(pkg *packages.Package) bool {
	if g.module[pkg.PkgPath] {
		return g.ordinary[pkg.PkgPath] || g.tests[pkg.ID]
	}
	return slices.ContainsFunc(pkg.IgnoredFiles, func(file string) bool {
		if filepath.Base(file) != registrationNames[ordinary] {
			return false
		}
		content, err := os.ReadFile(file)
		return err != nil || bytes.Contains(content, []byte("\nfunc init()"))
	})
}
