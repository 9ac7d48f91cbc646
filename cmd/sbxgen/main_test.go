package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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

// TestReal runs scripts against this checkout instead of the stand-in.
func TestReal(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/real",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			if err := offline(env); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "go.sum"), sum, 0o644); err != nil {
				return err
			}
			return writeNew(filepath.Join(env.WorkDir, "go.mod"), strings.ReplaceAll(goMod, "./.sbx", fmt.Sprintf("%q", root)))
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
	env.Setenv("GOPROXY", "off")
	env.Setenv("GOFLAGS", "-mod=mod")
	env.Setenv("GOTOOLCHAIN", os.Getenv("GOTOOLCHAIN"))
	return nil
}

func writeNew(path, content string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, []byte(content), 0o644)
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
