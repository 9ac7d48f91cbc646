package local

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver/local/internal/filter"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// The written programs are those that package filter's tests try, for every architecture.
func TestFiltersAreUpToDate(t *testing.T) {
	for _, architecture := range filter.Architectures() {
		file, err := parser.ParseFile(token.NewFileSet(), "filter_linux_"+architecture+".go", nil, 0)
		require.NoError(t, err)
		for name, shares := range map[string]bool{"callFilter": false, "sharingCallFilter": true} {
			var written strings.Builder
			ast.Inspect(file.Scope.Lookup(name).Decl.(ast.Node), func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok {
					part, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					written.WriteString(part)
				}
				return true
			})
			program, err := filter.Assemble(architecture, shares)
			require.NoError(t, err)
			assert.Equal(t, string(setup.PackFilter(program)), written.String(), "%s of %s: run make generate", name, architecture)
		}
	}
}
