package kubernetes

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fields are those of a file's Options, in order.
func fields(t *testing.T, file string) (names []string) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Options" {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			for _, name := range field.Names {
				names = append(names, name.Name)
			}
		}
		return false
	})
	return names
}

func TestWorkersHaveAllOptions(t *testing.T) {
	want := fields(t, "kubernetes.go")
	require.NotEmpty(t, want)
	assert.Equal(t, want, fields(t, "worker.go"), "a program that sets the option does not compile as a worker")
}
