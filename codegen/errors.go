package codegen

import (
	"fmt"
	"go/build"
	"go/types"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// errorNames are the error variables and error types that are registered of one package.
type errorNames struct {
	variables []*types.Var
	types     []*types.TypeName
}

// errorPackages returns what a unit registers with its wraps so that errors keep their identity: all of its own package,
// what is exported of the packages that declare the wrapped functions and of the module's packages which those import, directly
// or not, and what standardErrors has of the standard library's packages that any of them imports. All of that is linked wherever the
// function is. What only some platforms have is left out, so that the same is written on all of them.
func errorPackages(u *unit) []errorNames {
	everywhere := func(object types.Object) bool { return builtEverywhere(u.pkg.Fset.Position(object.Pos()).Filename) }
	exported := func(object types.Object) bool { return object.Exported() && everywhere(object) }
	found := []errorNames{errorNamesOf(u.pkg.Types, everywhere)}
	seen := map[string]bool{u.pkg.PkgPath: true}
	add := func(pkg *packages.Package, choose func(types.Object) bool) {
		// An error of sbx says how a call went; a function's own must not be taken for it.
		if !seen[pkg.PkgPath] && pkg.PkgPath != sbxPath && pkg.Types.Complete() && canImport(u.pkg.PkgPath, pkg.Types) {
			seen[pkg.PkgPath] = true
			found = append(found, errorNamesOf(pkg.Types, choose))
		}
	}
	addStandard := func(importing *packages.Package) {
		for importPath, imported := range importing.Imports {
			if names := standardErrors[importPath]; names != nil {
				add(imported, func(object types.Object) bool { return slices.Contains(names, object.Name()) })
			}
		}
	}
	visited := map[string]bool{}
	var visit func(pkg *packages.Package)
	visit = func(pkg *packages.Package) {
		if visited[pkg.PkgPath] || !sameModule(pkg, u.pkg) { // of another module, not all that it imports was loaded
			return
		}
		visited[pkg.PkgPath] = true
		add(pkg, exported)
		addStandard(pkg)
		for _, imported := range pkg.Imports {
			if imported.PkgPath != sbxPath && !strings.HasPrefix(imported.PkgPath, sbxPath+"/") { // as if of another module, in sbx's own
				visit(imported)
			}
		}
	}
	for _, wrap := range u.wraps {
		declaring := u.pkg
		if imported := u.pkg.Imports[wrap.Func.Pkg().Path()]; imported != nil {
			declaring = imported
			add(declaring, exported)
		}
		visit(declaring)
	}
	return found
}

// platforms are those whose builds a name must be part of, each with something that sets it apart.
var platforms = []build.Context{
	{GOOS: "linux", GOARCH: "amd64"}, {GOOS: "linux", GOARCH: "arm64"}, {GOOS: "darwin", GOARCH: "arm64"}, {GOOS: "windows", GOARCH: "amd64"},
}

// builtEverywhere reports whether a file is part of the build on each platform or on none: a generated file that names
// what only one platform has would break the build on the others. What else a file asks for, tags say, is the user's to
// give each time, and a file that isn't there any more can be told nothing of.
func builtEverywhere(file string) bool {
	dir, name := filepath.Split(file)
	built := 0
	for _, platform := range platforms {
		platform.Compiler, platform.ReleaseTags, platform.CgoEnabled = "gc", build.Default.ReleaseTags, true
		if ok, err := platform.MatchFile(dir, name); ok && err == nil {
			built++
		}
	}
	return built == 0 || built == len(platforms)
}

func sameModule(a, b *packages.Package) bool {
	return a.Module != nil && b.Module != nil && a.Module.Path == b.Module.Path
}

// errorNamesOf returns those of a package's error variables and error types that are chosen.
func errorNamesOf(pkg *types.Package, choose func(types.Object) bool) errorNames {
	var names errorNames
	for _, name := range pkg.Scope().Names() {
		switch object := pkg.Scope().Lookup(name).(type) {
		case *types.Var:
			if isError(object.Type()) && choose(object) {
				names.variables = append(names.variables, object)
			}
		case *types.TypeName:
			if isErrorType(object) && choose(object) {
				names.types = append(names.types, object)
			}
		}
	}
	return names
}

func isError(t types.Type) bool {
	return types.Implements(t, errorType.Underlying().(*types.Interface))
}

// isErrorType reports whether a type, or a pointer to it, is an error that could be registered: it is no interface, it has
// a name of its own, and it isn't generic.
func isErrorType(name *types.TypeName) bool {
	named, ok := name.Type().(*types.Named)
	return ok && !name.IsAlias() && named.TypeParams().Len() == 0 && !types.IsInterface(named) &&
		isError(types.NewPointer(named))
}

// arrivesAsText is the comment in place of the registration of an error type whose state can't be sent. What could be done
// about it is what [Unsendable] says of arguments, and would be too much here.
func arrivesAsText(name string, problem TypeProblem) string {
	reason, _, _ := strings.Cut(problem.Reason, "; ")
	return fmt.Sprintf("// %s arrives as text: %s: %s.", name, problem.Path, reason)
}
