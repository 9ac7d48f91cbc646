package codegen

import (
	"context"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/internal/artifact"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

func TestSbxPath(t *testing.T) {
	assert.Equal(t, "github.com/sandboxfn/sbx", sbxPath)
}

func TestTagsOf(t *testing.T) {
	for goflags, want := range map[string]string{
		"":                              "",
		"-mod=mod":                      "",
		"-tags=a":                       "a",
		"-mod=mod --tags=a,b -trimpath": "a,b",
		"'-tags=a b' -x":                "a,b",
		`"-tags=a"  -tags=c`:            "c",
		"'-tags=unclosed":               "",
	} {
		assert.Equal(t, want, tagsOf(goflags), goflags)
	}
}

func TestParsePosition(t *testing.T) {
	for text, want := range map[string]token.Position{
		"":                {},
		"-":               {},
		"a.go":            {Filename: "a.go"},
		"a.go:3":          {Filename: "a.go", Line: 3},
		"a.go:3:14":       {Filename: "a.go", Line: 3, Column: 14},
		`C:\x\a.go:3:4`:   {Filename: `C:\x\a.go`, Line: 3, Column: 4},
		`C:\x\a.go`:       {Filename: `C:\x\a.go`},
		`c:/x y/a.go:5`:   {Filename: `c:/x y/a.go`, Line: 5},
		`\\host\a.go:6:7`: {Filename: `\\host\a.go`, Line: 6, Column: 7},
	} {
		assert.Equal(t, want, parsePosition(text), text)
	}
}

func TestIsGeneratedName(t *testing.T) {
	for _, name := range []string{
		"sbx_gen.go", "sbx_gen_test.go", "sbx_gen_external_test.go", "zz_sbx_gen.go", "zzzz_sbx_gen_test.go",
		"zz_sbx_gen_external_test.go",
	} {
		assert.True(t, artifact.IsGenerated(name), name)
	}
	for _, name := range []string{"z_sbx_gen.go", "zzsbx_gen.go", "_sbx_gen.go", "sbx_gen2.go", "x_sbx_gen.go", "zz_.go", "zz", ""} {
		assert.False(t, artifact.IsGenerated(name), name)
	}
}

func TestDivertingName(t *testing.T) {
	for _, test := range []struct {
		files []string
		want  string
	}{
		{[]string{"main.go"}, "zz_sbx_gen.go"},
		{[]string{"zz.go"}, "zz_sbx_gen.go"},
		{[]string{"zz_sbx_gen2.go"}, "zzz_sbx_gen.go"},
		{[]string{"zzzzz.go", "a.go"}, "zzzzz_sbx_gen.go"},
		{[]string{"zz_sbx_gen.go", "zzz_sbx_gen.go"}, "zz_sbx_gen.go"}, // its own, old and new
		{[]string{"zzz_test.go"}, "zz_sbx_gen.go"},                     // not built together with it
		{[]string{"über.go"}, ""},
	} {
		u := &unit{dir: "/d", pkg: &packages.Package{}}
		for _, file := range test.files {
			u.pkg.GoFiles = append(u.pkg.GoFiles, filepath.Join("/d", file))
		}
		name, last := divertingName(u)
		assert.Equal(t, test.want, name, test.files)
		assert.Equal(t, test.want == "", last != "", test.files)
		for _, file := range test.files {
			if name != "" && !artifact.IsGenerated(file) && !isTestFile(file) {
				assert.Less(t, file, name)
			}
		}
	}
}

func TestCanImport(t *testing.T) {
	for _, test := range []struct {
		from, path, name string
		want             bool
	}{
		{"m/a", "m/b", "b", true},
		{"m/a", "m/cmd", "main", false},
		{"m/cmd_test", "m/cmd", "main", true},
		{"m", "m/internal/x", "x", true},
		{"m_test", "m/internal/x", "x", true},
		{"m/a/b", "m/internal/x", "x", true},
		{"mm", "m/internal/x", "x", false},
		{"m/b", "m/a/internal/x", "x", false},
		{"m/a", "m/a/internal/x/internal/y", "y", false},
		{"m", "internal/x", "x", false},
	} {
		assert.Equal(t, test.want, canImport(test.from, types.NewPackage(test.path, test.name)), "%s imports %s", test.from, test.path)
	}
}

func TestDiagnosticFormat(t *testing.T) {
	d := Diagnostic{Code: Unsendable, Message: "no", Position: token.Position{
		Filename: filepath.FromSlash("/m/a/a.go"), Line: 3, Column: 4}}
	assert.Equal(t, filepath.FromSlash("a/a.go:3:4: SBX003: no"), d.Format(filepath.FromSlash("/m")))
	assert.Equal(t, filepath.FromSlash("../a/a.go:3:4: SBX003: no"), d.Format(filepath.FromSlash("/m/b")))
	assert.Equal(t, "SBX003: no", Diagnostic{Code: Unsendable, Message: "no"}.Format("/m"))
}

func TestTidy(t *testing.T) {
	at := func(file string, line int, code Code, message string) Diagnostic {
		return Diagnostic{Code: code, Message: message, Position: token.Position{Filename: file, Line: line}}
	}
	got := tidy([]Diagnostic{
		at("b", 1, Broken, "mismatch"), at("a", 9, Unsendable, "x"), at("a", 9, Unsendable, "x"), at("b", 1, NilWrapped, "nil"),
		at("a", 10, Broken, "other"), at("a", 9, Unsendable, "y"),
	})
	assert.Equal(t, []Diagnostic{
		at("a", 9, Unsendable, "x"), at("a", 9, Unsendable, "y"), at("a", 10, Broken, "other"), at("b", 1, NilWrapped, "nil"),
	}, got)
}

func TestReadOld(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		want    oldFile
	}{
		"ours":       {string(empty("m")), oldFile{ours: true, hidden: true}},
		"windows":    {strings.ReplaceAll(string(empty("m")), "\n", "\r\n"), oldFile{ours: true, hidden: true}},
		"in sight":   {header + "\n\npackage m\n", oldFile{ours: true}},
		"conflict":   {header + "\n\n<<<<<<< ours\n" + hiding + "\n\npackage m\n", oldFile{ours: true}},
		"merge":      {"<<<<<<< ours\n" + string(empty("m")), oldFile{ours: true}},
		"no advice":  {header + "\n\n" + hiding + "\n\npackage m\n", oldFile{ours: true}},
		"empty":      {"", oldFile{ours: true}},
		"the user's": {"package m\n\n" + header + "\n", oldFile{}},
		"other tag":  {header + "\n" + advice + "\n\n" + hiding + "2\n\npackage m\n", oldFile{ours: true}},
	} {
		path := filepath.Join(t.TempDir(), "sbx_gen.go")
		require.NoError(t, os.WriteFile(path, []byte(test.content), 0o644))
		got, err := readOld(path)
		require.NoError(t, err)
		assert.Equal(t, test.want, got, name)
	}
}

func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sbx_gen.go")
	require.NoError(t, writeFile(path, []byte("one")))
	require.NoError(t, writeFile(path, []byte("two")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sbx_gen_test.go"), 0o755))
	require.Error(t, writeFile(filepath.Join(dir, "sbx_gen_test.go"), []byte("a folder is in the way")))

	content, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "two", string(content))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2)
}

func TestRunOutsideOfModule(t *testing.T) {
	_, err := Run(context.Background(), Config{Dir: t.TempDir()})
	var usage *UsageError
	require.ErrorAs(t, err, &usage)
}
