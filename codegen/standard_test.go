package codegen

import (
	"go/types"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

// holdsInterface reports whether the state of a type has an interface in it, but for error.
func holdsInterface(t types.Type, seen map[types.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch u := t.Underlying().(type) {
	case *types.Interface:
		return !types.Identical(t, errorType)
	case *types.Pointer:
		return holdsInterface(u.Elem(), seen)
	case *types.Slice:
		return holdsInterface(u.Elem(), seen)
	case *types.Map:
		return holdsInterface(u.Key(), seen) || holdsInterface(u.Elem(), seen)
	case *types.Struct:
		return slices.ContainsFunc(slices.Collect(u.Fields()), func(field *types.Var) bool { return holdsInterface(field.Type(), seen) })
	}
	return false
}

func TestStandardErrorsAreWhatTheySay(t *testing.T) {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports},
		slices.Sorted(maps.Keys(standardErrors))...)
	require.NoError(t, err)
	require.Len(t, pkgs, len(standardErrors))
	for _, pkg := range pkgs {
		found := errorNamesOf(pkg.Types, types.Object.Exported)
		for _, name := range standardErrors[pkg.PkgPath] {
			isType := slices.ContainsFunc(found.types, func(t *types.TypeName) bool {
				return t.Name() == name && len(CheckType(t.Type(), nil)) == 0 && !holdsInterface(t.Type(), map[types.Type]bool{})
			})
			isVariable := slices.ContainsFunc(found.variables, func(v *types.Var) bool { return v.Name() == name })
			assert.True(t, isType || isVariable, "%s.%s", pkg.PkgPath, name)
		}
		for _, v := range found.variables {
			t.Logf("%s.%s: %t", pkg.PkgPath, v.Name(), slices.Contains(standardErrors[pkg.PkgPath], v.Name()))
		}
	}
}
