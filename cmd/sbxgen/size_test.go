package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The worker of the demo has at most three fifths of the program's size, and it is said what takes them.
func TestTheDemosWorkerIsSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the demo twice")
	}
	if cgo, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err != nil || string(cgo) != "1\n" || runtime.GOARCH != "amd64" {
		t.Skip("the bar is for the program as go build makes it on a usual machine, with cgo")
	}
	t.Setenv("SBX_CACHE", t.TempDir())
	dir := t.TempDir()
	demo, program, built := filepath.Join("..", "..", "examples", "gometrics"), filepath.Join(dir, "program"), filepath.Join(dir, "worker")
	out, err := exec.Command("go", "build", "-o", program, demo).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"worker", "-C", demo, "-v", "-o", built, "."}, &stdout, &stderr), "%s", &stderr)
	assert.Contains(t, stdout.String(), "% of the code: runtime\n")

	whole, err := os.Stat(program)
	require.NoError(t, err)
	small, err := os.Stat(built)
	require.NoError(t, err)
	share := float64(small.Size()) / float64(whole.Size())
	t.Logf("program %d bytes, worker %d bytes: %.3f", whole.Size(), small.Size(), share)
	assert.LessOrEqual(t, share, 0.60)
}
