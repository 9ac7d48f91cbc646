package sbx_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestREADME runs the programs as the README prints them, in a new module outside of this one.
func TestREADME(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the README's program uses local sandboxes, which are Linux's")
	}
	checkout, err := os.Getwd()
	require.NoError(t, err)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	program := regexp.MustCompile("(?s)`main.go`:\n\n```go\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, program, "README.md has a main.go")
	assert.Less(t, strings.Count(string(program[1]), "\n"), 40, "lines")
	assert.Contains(t, string(readme), "\ngo generate ./... && go run .\n")

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), program[1], 0o600))
	sums, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600))
	command := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "PWD="+dir)
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", strings.Join(args, " "), output)
		return string(output)
	}
	command("go", "mod", "init", "hello")
	// This checkout stands for the version that the README's two `go get` find; tidy adds what they would add.
	command("go", "mod", "edit", "-require=github.com/sandboxfn/sbx@v0.0.0", "-replace=github.com/sandboxfn/sbx="+checkout,
		"-tool=github.com/sandboxfn/sbx/cmd/sbxgen")
	command("go", "mod", "tidy")
	command("go", "generate", "./...")
	output := command("go", "run", ".")
	for _, want := range []string{
		"4 <nil>\n", "1 <nil> false\n", "2 <nil> false\n", "0 sbx: hello.Count (input 2, sandbox ", "): no words true\n",
		`counting "one two" as user 1000 in process `,
	} {
		assert.Contains(t, output, want)
	}

	second := regexp.MustCompile("(?s)## Commands and files\n.*?\n```go\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, second, "README.md has a program with commands and files")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "commands"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "commands", "main.go"), second[1], 0o600))
	assert.Equal(t, "hello me\nhello you\n<nil>\n", command("go", "run", "./commands"))
}

// TestGuaranteesNameTestsThatExist looks for each test that docs/guarantees.md and docs/acceptance.md name.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	guarantees, err := os.ReadFile("docs/guarantees.md")
	require.NoError(t, err)
	acceptance, err := os.ReadFile("docs/acceptance.md")
	require.NoError(t, err)
	text := string(guarantees) + string(acceptance)
	var sources strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".go") {
			source, err := os.ReadFile(path)
			sources.Write(source)
			return err
		}
		return err
	}))
	names := regexp.MustCompile("`((?:Test|Example)\\w+)`").FindAllStringSubmatch(text, -1)
	clauses := regexp.MustCompile(`"([a-z][^"]+)"`).FindAllStringSubmatch(text, -1)
	require.Greater(t, len(names), 100)
	require.Greater(t, len(clauses), 5)
	for _, name := range names {
		if !strings.Contains(sources.String(), "func "+name[1]+"(") {
			t.Errorf("there is no %s", name[1])
		}
	}
	for _, clause := range clauses {
		if !strings.Contains(sources.String(), `{"`+clause[1]+`",`) {
			t.Errorf("there is no clause %q", clause[1])
		}
	}
}

// TestAcceptanceIsWhole looks for each case of the acceptance list that is about sessions and sandboxes, with what holds it, or why nothing does.
func TestAcceptanceIsWhole(t *testing.T) {
	text, err := os.ReadFile("docs/acceptance.md")
	require.NoError(t, err)
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| [^|]+ \|([^|]*)\|([^|]*)\|$`).FindAllStringSubmatch(string(text), -1)
	var numbers []int
	for _, row := range rows {
		number, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		numbers = append(numbers, number)
		assert.NotEmpty(t, strings.TrimSpace(row[2]+row[3]), "case %d", number)
	}
	var want []int
	for _, area := range [][2]int{{1, 33}, {50, 58}, {60, 78}, {80, 87}} {
		for number := area[0]; number <= area[1]; number++ {
			want = append(want, number)
		}
	}
	assert.Equal(t, want, numbers)
}
