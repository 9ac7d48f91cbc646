package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/sandboxfn/sbx/codegen"
)

// A section of docs/diagnostics.md is about one code.
type section struct {
	code    string
	example string // a file main.go, or several in txtar's form
	printed string
	fixed   string // the same without the finding, if there is such an example
}

var (
	sectionHeading = regexp.MustCompile(`(?m)^## (.*)$`)
	codeBlock      = regexp.MustCompile("(?ms)^```(\\w+(?: fixed)?)\n(.*?)^```$")
)

func sections(t *testing.T) []section {
	t.Helper()
	document, err := os.ReadFile("../../docs/diagnostics.md")
	require.NoError(t, err)
	text := string(document)
	headings := sectionHeading.FindAllStringSubmatchIndex(text, -1)
	found := make([]section, len(headings))
	for i, heading := range headings {
		end := len(text)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		s := section{code: text[heading[2]:heading[3]]}
		for _, block := range codeBlock.FindAllStringSubmatch(text[heading[1]:end], -1) {
			into, ok := map[string]*string{"go": &s.example, "text": &s.printed, "go fixed": &s.fixed}[block[1]]
			require.True(t, ok && *into == "", "%s: a block of %q too many", s.code, block[1])
			*into = block[2]
		}
		found[i] = s
	}
	return found
}

// What an example leaves out. Its own first line counts as the file's.
const (
	before = "package main\n\nimport (%s)\n\n//line %s:1:1\n"
	after  = "\nfunc main() {}\n"
)

// writeExample writes the files of an example and returns the folder.
func writeExample(t *testing.T, dir, example string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	archive := txtar.Parse([]byte(example))
	if len(archive.Files) == 0 {
		archive.Files = []txtar.File{{Name: "main.go", Data: []byte(example)}}
	}
	for _, file := range archive.Files {
		var needs []string
		for _, path := range []string{"context", "flag", "math", "github.com/sandboxfn/sbx", "github.com/sandboxfn/sbx/registry"} {
			if strings.Contains(string(file.Data), filepath.Base(path)+".") {
				needs = append(needs, strconv.Quote(path))
			}
		}
		source := fmt.Sprintf(before, strings.Join(needs, "; "), file.Name) + string(file.Data)
		if file.Name == "main.go" && !strings.Contains(source, "func main()") {
			source += after
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, file.Name), []byte(source), 0o644))
	}
	return dir
}

// The examples are run through the generator, so that the document says what it says.
func TestDiagnosticsDocument(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod")
	sbx, err := filepath.Abs("testdata/sbx")
	require.NoError(t, err)
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	module := strings.ReplaceAll(goMod, "./.sbx", strconv.Quote(sbx))
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte(module), 0o644))

	all := sections(t)
	for _, s := range all {
		require.NotEmpty(t, s.example, "%s: no example", s.code)
		writeExample(t, filepath.Join(root, s.code), s.example)
	}
	// Each by itself: an error in one keeps others' programs from being looked at.
	for _, s := range all {
		t.Run(s.code, func(t *testing.T) {
			dir := filepath.Join(root, s.code)
			assert.Equal(t, s.printed, printed(t, dir))
			assert.Contains(t, s.printed, s.code+": ")
			if s.fixed != "" {
				require.NoError(t, os.RemoveAll(dir))
				assert.Empty(t, printed(t, writeExample(t, dir, s.fixed)))
			}
		})
	}
}

func printed(t *testing.T, dir string) string {
	t.Helper()
	result, err := codegen.Run(t.Context(), codegen.Config{Dir: dir, Patterns: []string{"."}, Check: true})
	require.NoError(t, err)
	var out strings.Builder
	for _, d := range result.Diagnostics {
		fmt.Fprintln(&out, d.Format(dir))
	}
	return out.String()
}

// Every code has its section, and in order.
func TestDiagnosticsDocumentIsWhole(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../codegen/diagnostic.go", nil, 0)
	require.NoError(t, err)
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			codes = append(codes, code)
		}
		return true
	})
	require.NotEmpty(t, codes)
	var documented []string
	for _, s := range sections(t) {
		documented = append(documented, s.code)
	}
	assert.Equal(t, codes, documented)
}

// There is nothing to say of this module, whose package sbx has the wrapping methods.
func TestThisModule(t *testing.T) {
	if testing.Short() {
		t.Skip("type-checks the module")
	}
	result, err := codegen.Run(t.Context(), codegen.Config{Dir: "../..", Check: true})
	require.NoError(t, err)
	assert.Empty(t, result.Diagnostics)
	require.NotEmpty(t, result.Files)
	for _, file := range result.Files {
		assert.Equal(t, codegen.Unchanged, file.Change, file.Path)
	}
}
