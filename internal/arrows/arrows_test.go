// Package arrows_test holds the direction of the imports between the packages of the module, for whoever changes them:
// the rules stand in rules_test.go, each with its reason. The linter's depguard rules say the same while one types; this
// test also sees what is imported in between, and the files of every platform.
package arrows_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestArrows(t *testing.T) {
	g := load(t)
	for _, path := range []string{".", "./registry", "./worker", "./codegen", "./driver", "./driver/local", "./driver/inprocess", "./driver/kubernetes", "./sbxtest"} {
		require.Contains(t, g, path, "a package that the rules speak of is gone: rename it there, too")
	}
	reasons := map[string]string{}
	for _, r := range arrows {
		reasons[r.name] = r.reason
	}
	for _, v := range check(g, arrows) {
		t.Errorf("%s: %s\n\t%s", v.rule, reasons[v.rule], strings.Join(v.chain, "\n\t→ "))
	}
}

func TestNames(t *testing.T) {
	assert.Empty(t, checkNames(load(t)), "these names say nothing of what the package is for")
}

// The controls: a graph that keeps every arrow passes, and each arrow turned the wrong way is found.
func TestArrowsCanFail(t *testing.T) {
	clean := func() graph {
		return graph{
			".":                      {Imports: []string{"context", "./driver", "./driver/local", "./internal/pool", "./registry"}, TestImports: []string{"./driver/inprocess"}},
			"./codegen":              {Imports: []string{"./internal/artifact", "./registry", "golang.org/x/tools/go/packages"}},
			"./driver":               {Imports: []string{"context", "log/slog"}},
			"./driver/drivertest":    {Imports: []string{"./driver", "./internal/wire/launch"}},
			"./driver/inprocess":     {Imports: []string{"./driver", "./worker"}},
			"./driver/local":         {Imports: []string{"./driver", "./driver/local/seccomp", "golang.org/x/sys/unix"}, TestImports: []string{"./driver/process"}},
			"./driver/local/seccomp": {Imports: []string{"golang.org/x/sys/unix"}},
			"./driver/process":       {Imports: []string{"./driver"}},
			"./examples/hello":       {Imports: []string{".", "./driver/process", "./registry", "./worker"}},
			"./internal/artifact":    {Imports: []string{"crypto/sha256"}},
			"./internal/pool":        {Imports: []string{"./driver", "./internal/wire/launch"}},
			"./internal/wire":        {Imports: []string{"github.com/hashicorp/go-plugin"}},
			"./internal/wire/launch": {Imports: []string{"./driver", "github.com/hashicorp/go-plugin", "./internal/wire"}},
			"./registry":             {Imports: []string{"reflect", "github.com/vmihailenco/msgpack/v5"}},
			"./sbxtest":              {Imports: []string{".", "./driver/inprocess"}},
			"./worker":               {Imports: []string{"./internal/wire", "./registry"}},
		}
	}
	require.Empty(t, check(clean(), arrows))

	tests := map[string]struct {
		from, to string
		inTest   bool
		want     []violation
	}{
		"driver imports ours": {
			from: "./driver", to: "./registry",
			want: []violation{{"driver is std-only", []string{"./driver", "./registry"}}},
		},
		"driver imports a module": {
			from: "./driver", to: "golang.org/x/sys/unix",
			want: []violation{{"driver is std-only", []string{"./driver", "golang.org/x/sys/unix"}}},
		},
		"registry imports ours": {
			from: "./registry", to: "./internal/wire",
			want: []violation{{"registry imports nothing of ours", []string{"./registry", "./internal/wire"}}},
		},
		"worker imports sbx": {
			from: "./worker", to: ".",
			want: []violation{{"worker imports neither sbx nor driver nor codegen", []string{"./worker", "."}}},
		},
		"worker imports driver through another": {
			from: "./internal/wire", to: "./driver",
			want: []violation{{"worker imports neither sbx nor driver nor codegen", []string{"./worker", "./internal/wire", "./driver"}}},
		},
		"worker imports codegen through another": {
			from: "./internal/wire", to: "./codegen",
			want: []violation{
				{"worker imports neither sbx nor driver nor codegen", []string{"./worker", "./internal/wire", "./codegen"}},
				{"worker does without artifact", []string{"./worker", "./internal/wire", "./codegen", "./internal/artifact"}},
			},
		},
		"codegen imports ours": {
			from: "./codegen", to: "./internal/pool",
			want: []violation{{"codegen imports only registry and artifact", []string{"./codegen", "./internal/pool"}}},
		},
		"artifact imports ours": {
			from: "./internal/artifact", to: "./registry",
			want: []violation{{"artifact is std-only", []string{"./internal/artifact", "./registry"}}},
		},
		"worker imports artifact through another": {
			from: "./internal/wire", to: "./internal/artifact",
			want: []violation{{"worker does without artifact", []string{"./worker", "./internal/wire", "./internal/artifact"}}},
		},
		"sbx imports another driver": {
			from: ".", to: "./driver/process",
			want: []violation{{"nobody imports a concrete driver", []string{".", "./driver/process"}}},
		},
		"sbxtest imports another driver": {
			from: "./sbxtest", to: "./driver/local",
			want: []violation{{"nobody imports a concrete driver", []string{"./sbxtest", "./driver/local"}}},
		},
		"a driver imports another": {
			from: "./driver/process", to: "./driver/local/seccomp",
			want: []violation{{"nobody imports a concrete driver", []string{"./driver/process", "./driver/local/seccomp"}}},
		},
		"the suite imports a driver": {
			from: "./driver/drivertest", to: "./driver/process",
			want: []violation{{"nobody imports a concrete driver", []string{"./driver/drivertest", "./driver/process"}}},
		},
		"a driver imports go-plugin": {
			from: "./driver/local", to: "github.com/hashicorp/go-plugin/runner",
			want: []violation{{"drivers know no protocol", []string{"./driver/local", "github.com/hashicorp/go-plugin/runner"}}},
		},
		"a driver imports launch": {
			from: "./driver/process", to: "./internal/wire/launch",
			want: []violation{{"drivers know no protocol", []string{"./driver/process", "./internal/wire/launch"}}},
		},
		"the root module has Kubernetes": {
			from: "./internal/pool", to: "k8s.io/client-go/rest",
			want: []violation{{"Kubernetes is in a module of its own", []string{"./internal/pool", "k8s.io/client-go/rest"}}},
		},
		"an example is imported": {
			from: "./internal/pool", to: "./examples/hello",
			want: []violation{{"nobody imports examples", []string{"./internal/pool", "./examples/hello"}}},
		},
		"an example is imported by a test": {
			from: "./internal/pool", to: "./examples/hello", inTest: true,
			want: []violation{{"nobody imports examples", []string{"./internal/pool", "./examples/hello"}}},
		},
	}
	broken := map[string]bool{}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := clean()
			p, ok := g[test.from]
			require.True(t, ok)
			if test.inTest {
				p.TestImports = append(p.TestImports, test.to)
			} else {
				p.Imports = append(p.Imports, test.to)
			}
			g[test.from] = p
			assert.Equal(t, test.want, check(g, arrows))
		})
		broken[test.want[0].rule] = true
	}
	for _, r := range arrows {
		assert.Contains(t, broken, r.name, "no control shows that this rule can fail")
	}
}

func TestNamesCanFail(t *testing.T) {
	g := graph{
		"./client":           {Name: "client"},
		"./driver":           {Name: "driver"},
		"./internal/types":   {Name: "wire"},
		"./pool":             {Name: "manager"},
		"./util/text":        {Name: "text"},
		"./internal/typeset": {Name: "typeset"},
	}
	assert.Equal(t, []string{"./client", "./internal/types", "./pool", "./util/text"}, checkNames(g))
}

// load asks the go command for the graph: the union over the platforms, whose files differ.
func load(t *testing.T) graph {
	t.Helper()
	// So that the module's path is spelled in go.mod only.
	module := strings.TrimSpace(string(goCommand(t, "linux", "list", "-f", "{{.Module.Path}}", ".")))
	relative := func(path string) string {
		if rest, ok := strings.CutPrefix(path, module); ok && (rest == "" || rest[0] == '/') {
			return "." + rest
		}
		return path
	}
	lookAt(t, filepath.Join("..", ".."))
	g := graph{}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		output := goCommand(t, goos, "list", "-deps", "-json=ImportPath,Name,Imports,TestImports,XTestImports", module+"/...")
		for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
			var listed struct {
				ImportPath, Name                   string
				Imports, TestImports, XTestImports []string
			}
			err := decoder.Decode(&listed)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			path := relative(listed.ImportPath)
			merged := pkg{Name: listed.Name, Imports: g[path].Imports, TestImports: g[path].TestImports}
			for _, to := range listed.Imports {
				merged.Imports = append(merged.Imports, relative(to))
			}
			for _, to := range slices.Concat(listed.TestImports, listed.XTestImports) {
				merged.TestImports = append(merged.TestImports, relative(to))
			}
			g[path] = merged
		}
	}
	return g
}

// lookAt opens the module's folders. A cached test result is used again until a file or folder that the test itself
// opened has changed, and those that the go command reads for it don't count.
func lookAt(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	}))
}

func goCommand(t *testing.T, goos string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), stderr.String())
	return output
}
