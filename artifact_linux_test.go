package sbx

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIsDynamic(t *testing.T) {
	folder := t.TempDir()
	source, program := filepath.Join(folder, "main.go"), filepath.Join(folder, "program")
	require.NoError(t, os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600))
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for path, want := range map[string]bool{program: false, "/bin/sh": true} {
		dynamic, err := isDynamic(path)
		require.NoError(t, err, path)
		assert.Equal(t, want, dynamic, path)
	}
	_, err = isDynamic(source)
	assert.Error(t, err)
}

// A program that needs files of this machine is no worker where those are not.
func TestWorkerAlone(t *testing.T) {
	own, err := worker.Executable()
	require.NoError(t, err)
	dynamic, err := isDynamic(own)
	require.NoError(t, err)
	platform := driver.Host()
	workers := &workers{}
	path, err := workers.find(t.Context(), platform)
	require.NoError(t, err)
	assert.Equal(t, own, path)

	platform.Alone = true
	path, err = workers.find(t.Context(), platform)
	if !dynamic {
		require.NoError(t, err)
		assert.Equal(t, own, path)
		return
	}
	require.ErrorIs(t, err, ErrNoWorker)
	require.ErrorContains(t, err, "CGO_ENABLED=0")
}
