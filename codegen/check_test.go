package codegen

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/registry"
)

// checkSample type-checks sample_test.go.
func checkSample(t *testing.T) (*types.Package, *types.Struct) {
	t.Helper()
	t.Setenv("GOFLAGS", "") // the importer asks go list outside of this module
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "sample_test.go", nil, 0)
	require.NoError(t, err)
	config := types.Config{Importer: importer.Default()}
	pkg, err := config.Check("sample", fset, []*ast.File{file}, nil)
	require.NoError(t, err)
	return pkg, pkg.Scope().Lookup("sample").Type().Underlying().(*types.Struct)
}

// The generator and the running program must refuse the same types, at the same place.
func TestCheckTypeAgreesWithRegistry(t *testing.T) {
	pkg, static := checkSample(t)
	dynamic := reflect.TypeFor[sample]()
	require.Equal(t, dynamic.NumField(), static.NumFields())

	refused := false
	for i := range static.NumFields() {
		field := dynamic.Field(i)
		t.Run(field.Name, func(t *testing.T) {
			require.Equal(t, field.Name, static.Field(i).Name())
			refused = refused || field.Name == "Uintptr" // the first of those that can't be sent

			problems := CheckType(static.Field(i).Type(), types.RelativeTo(pkg))
			_, err := registry.CodecOf(field.Type)
			if !refused {
				assert.Empty(t, problems)
				assert.NoError(t, err)
				return
			}
			require.NotEmpty(t, problems)
			require.Error(t, err)
			var typeError *registry.TypeError
			require.ErrorAs(t, err, &typeError)
			t.Logf("static:  %s", problems[0])
			t.Logf("dynamic: %s", typeError)
			if field.Type.Name() != "" && field.Name != "Unsafe" { // which reflect names Pointer
				assert.Equal(t, typeError.Path, problems[0].Path)
			}
		})
	}
	require.True(t, refused)
}

func TestCheckTypeTellsAll(t *testing.T) {
	pkg, _ := checkSample(t)
	problems := CheckType(pkg.Scope().Lookup("sample").Type(), types.RelativeTo(pkg))
	var paths []string
	for _, problem := range problems {
		paths = append(paths, problem.Path)
	}
	assert.Equal(t, []string{
		"sample.Uintptr", "sample.Unsafe", "sample.Chan", "sample.Func", "sample.NamedFunc",
		"sample.ErrorLike", "sample.ErrorKey[key]", "sample.Context", "sample.Mutex", "sample.Once", "sample.Atomic", "sample.Unexported.n",
		"sample.Half", "sample.HalfOther", "sample.PointerKey[key]", "sample.PointerInKey[key]", "sample.FuncInKey[key].C",
		"sample.EmbedsPtr.plain", "sample.EmbedsHidden.number", "sample.EmbedsHalf.text", "sample.Timer.C",
		"sample.Timer.initTimer", "sample.BadTree.Bad", "sample.TextUintptr", "sample.TextFunc", "sample.OwnAndHidden.hidden",
		"sample.LongArray",
	}, paths)
	assert.Equal(t, "sample.Func: func() can't be sent: code isn't sent; send what the function needs to choose it, "+
		"or leave it out with the tag `msgpack:\"-\"`", problems[3].String())
}
