package kubernetes_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestWorkerInImage does what docs/kubernetes.md says: sbxgen image, and a program that has the same worker. The image has nothing else in it.
func TestWorkerInImage(t *testing.T) {
	needControl(t)
	const image = "local/sbx-in-image:1"
	tar, program := filepath.Join(t.TempDir(), "image.tar"), filepath.Join(t.TempDir(), "program")
	run := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	built := "SBX_CACHE=" + t.TempDir()
	sbxgen := func(args ...string) {
		t.Helper()
		run([]string{built}, "go", append([]string{"tool", "sbxgen"}, args...)...)
	}
	sbxgen("image", "-C", "internal/inimage", "-base", "scratch", "-o", tar, "-tag", image, ".")
	control(t, "import", tar)
	sbxgen("build", "-C", "internal/inimage", "-o", program, ".")
	// It has the worker in itself, and needs nothing of what sbxgen left here.
	own := run([]string{"SBX_CACHE=" + t.TempDir(), "SBX_DRIVER=kubernetes:?worker=in-image&image=" + image + "&namespace=" + namespace}, program)
	assert.Regexp(t, "^/.sbx-worker/[0-9a-f]{64}$", own, "it is that of the image")
	nothingLeft(t)

	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.WorkerInImage, o.Image = true, image }))
	_, err := session.Function(echo).Call(t.Context(), "")
	wrong, ok := errors.AsType[*driver.ImageError](err)
	require.True(t, ok, "another program's worker: %v", err)
	assert.Contains(t, strings.Join(wrong.Remedies, ""), "sbxgen image")
}
