package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sbxgen": main})
}

// The go.mod of a script that has none of its own. The module sbx is the stand-in of testdata/sbx, in a folder that
// ./... doesn't see; scripts are about what is generated, and compile it against that.
const goMod = `module example.com/m

go 1.27.0

tool github.com/sandboxfn/sbx/cmd/sbxgen

require github.com/sandboxfn/sbx v0.0.0

replace github.com/sandboxfn/sbx => ./.sbx
`

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("SBXGEN_UPDATE_SCRIPTS") != "", // rewrites what cmp compares with
		Setup: func(env *testscript.Env) error {
			if err := offline(env); err != nil {
				return err
			}
			sbxgen, err := exec.LookPath("sbxgen") // testscript has put it in PATH
			if err != nil {
				return err
			}
			env.Setenv("SBXGEN", sbxgen) // go vet asks for a path
			if err := os.CopyFS(filepath.Join(env.WorkDir, ".sbx"), os.DirFS("testdata/sbx")); err != nil {
				return err
			}
			return writeNew(filepath.Join(env.WorkDir, "go.mod"), goMod)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"touched": touched},
	})
}

// TestReal runs scripts against this checkout instead of the stand-in: each has a program whose functions run in sandboxes.
// A function tells that it does by what it sees of HERE, which only the script's own environment has.
func TestReal(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	// The go command doesn't see that the programs are built from the checkout. It takes no result from its cache when a
	// folder has changed that the test itself has read.
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == ".git" || path == filepath.Join(root, "bin")) {
			return fs.SkipDir
		}
		return err
	}))
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	own, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	_, needs, found := strings.Cut(string(own), "\nrequire ")
	require.True(t, found)
	needs = fmt.Sprintf("\nrequire %s\nrequire github.com/sandboxfn/sbx v0.0.0\n\nreplace github.com/sandboxfn/sbx => %q\n", needs, root)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/real",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			if err := offline(env); err != nil {
				return err
			}
			env.Setenv("HERE", "yes")
			if err := os.WriteFile(filepath.Join(env.WorkDir, "go.sum"), sum, 0o644); err != nil {
				return err
			}
			return writeNew(filepath.Join(env.WorkDir, "go.mod"), strings.ReplaceAll(goMod, "./.sbx", fmt.Sprintf("%q", root)))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"same": same,
			// "needs dir..." adds this checkout, and all that it needs, to the go.mod of modules.
			"needs": func(ts *testscript.TestScript, _ bool, dirs []string) {
				for _, dir := range dirs {
					goMod := filepath.Join(ts.MkAbs(dir), "go.mod")
					ts.Check(os.WriteFile(goMod, []byte(ts.ReadFile(goMod)+needs), 0o644))
					ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(dir), "go.sum"), sum, 0o644))
				}
			},
		},
		Condition: func(condition string) (bool, error) {
			if condition != "cc" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			out, err := exec.Command("go", "env", "CC").Output()
			if err != nil {
				return false, err
			}
			_, err = exec.LookPath(strings.TrimSpace(string(out)))
			return err == nil, nil
		},
	})
}

// offline gives a script the build cache of the machine, which makes it fast, and no way to the network.
func offline(env *testscript.Env) error {
	out, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPATH").Output()
	if err != nil {
		return err
	}
	dirs := strings.Split(strings.TrimSpace(string(out)), "\n")
	env.Setenv("GOCACHE", dirs[0])
	env.Setenv("GOMODCACHE", dirs[1])
	env.Setenv("GOPATH", dirs[2])
	env.Setenv("SBX_CACHE", filepath.Join(env.WorkDir, ".cache"))
	env.Setenv("GOPROXY", "off")
	env.Setenv("GOFLAGS", "-mod=mod")
	env.Setenv("GOTOOLCHAIN", os.Getenv("GOTOOLCHAIN"))
	return nil
}

// On a terminal, and only there, something that takes long is told.
func TestSlowWorkIsTold(t *testing.T) {
	told := func(terminal bool, takes time.Duration) string {
		var stderr bytes.Buffer
		synctest.Test(t, func(*testing.T) {
			done := (&sbxgen{stderr: &stderr, terminal: terminal}).slow("building %s", "it")
			time.Sleep(takes)
			done()
		})
		return stderr.String()
	}
	require.Equal(t, "sbxgen: building it\n", told(true, patience+1))
	require.Empty(t, told(true, patience-1))
	require.Empty(t, told(false, patience+1))
}

func writeNew(path, content string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// same is the command "same file1 file2": the files, which nobody wants to see as text, have the same bytes.
func same(ts *testscript.TestScript, neg bool, args []string) {
	var contents [2][]byte
	for i, name := range args {
		var err error
		contents[i], err = os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
	}
	if bytes.Equal(contents[0], contents[1]) == neg {
		ts.Fatalf("%s and %s: same is %t", args[0], args[1], !neg)
	}
}

// touched is the command "touched reference file...": the files are newer than the reference; with ! none is.
func touched(ts *testscript.TestScript, neg bool, args []string) {
	modified := func(name string) fs.FileInfo {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		return info
	}
	reference := modified(args[0]).ModTime()
	for _, name := range args[1:] {
		if modified(name).ModTime().After(reference) == neg {
			ts.Fatalf("%s: touched is %t", name, !neg)
		}
	}
}
