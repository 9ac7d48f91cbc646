package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each code has its section in docs/diagnostics.md, whose example gives the messages that stand below it.
func TestDiagnosticsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/diagnostics.md")
	require.NoError(t, err)
	sections := strings.Split(string(text), "\n## ")[1:]
	var documented []string
	for _, section := range sections {
		code, _, _ := strings.Cut(section, "\n")
		documented = append(documented, code)
		t.Run(code, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(filepath.Join(dir, ".sbx"), os.DirFS("testdata/sbx")))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(goMod), 0o600))
			for name, source := range goBlocks(t, section) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600))
			}
			t.Setenv("SBX_CACHE", t.TempDir())
			t.Setenv("GOFLAGS", "-mod=mod")
			var stdout, stderr bytes.Buffer
			run(t.Context(), []string{"check", "-C", dir}, &stdout, &stderr)
			var got []string
			for line := range strings.Lines(stderr.String()) {
				if strings.Contains(line, ": SBX") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			var want []string
			for line := range strings.Lines(section) {
				if message, ok := strings.CutPrefix(line, "    "); ok && strings.Contains(message, ": SBX") {
					want = append(want, strings.TrimSpace(message))
				}
			}
			require.NotEmpty(t, want)
			assert.Equal(t, want, got)
			for _, message := range got {
				assert.Contains(t, message, ": "+code+": ")
			}
		})
	}
	assert.Equal(t, codes(t), documented)
}

// goBlocks returns the Go files of a section by their names, which the first line of each says.
func goBlocks(t *testing.T, section string) map[string]string {
	blocks := map[string]string{}
	for _, block := range strings.Split(section, "```go\n")[1:] {
		source, _, ok := strings.Cut(block, "```")
		require.True(t, ok)
		first, _, _ := strings.Cut(source, "\n")
		name, ok := strings.CutPrefix(first, "// ")
		require.True(t, ok, "the first line of %q names the file", source)
		blocks[name] = source
	}
	return blocks
}

// codes are the codes that package codegen declares, in order.
func codes(t *testing.T) []string {
	file, err := parser.ParseFile(token.NewFileSet(), "../../codegen/diagnostic.go", nil, 0)
	require.NoError(t, err)
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(literal.Value, `"SBX`) {
			code, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			found = append(found, code)
		}
		return true
	})
	return found
}
