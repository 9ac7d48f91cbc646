package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWalk(t *testing.T) {
	root := writeFiles(t,
		"top.go", "cmd/tool/main.go", "a/a.go", "a/a_test.go", "a/b/b.go", "a/b/notes.txt", "a/cmd/c.go",
		"only/only_test.go", "testdata/t.go", "a/vendor/v.go", "_old/o.go", ".git/g.go",
	)
	got := map[string][]string{}
	for p := range walk(root, func(err error) { t.Error(err) }) {
		for _, file := range p.Files {
			got[p.Path] = append(got[p.Path], file.Name)
			assert.Equal(t, "package p\n", file.Source)
		}
	}
	assert.Equal(t, map[string][]string{".": {"top.go"}, "a": {"a.go"}, "a/b": {"b.go"}, "a/cmd": {"c.go"}}, got)
}

func TestWalkIsLazy(t *testing.T) {
	root := writeFiles(t, "a/a.go", "b/b.go")
	for p := range walk(root, func(err error) { t.Error(err) }) {
		assert.Equal(t, "a", p.Path)
		require.NoError(t, os.RemoveAll(filepath.Join(root, "b")), "nothing may have opened b yet")
		break
	}
}

func TestWalkTellsWhatItCouldNotRead(t *testing.T) {
	var failed []error
	for p := range walk(filepath.Join(t.TempDir(), "missing"), func(err error) { failed = append(failed, err) }) {
		t.Errorf("package %s of a missing folder", p.Path)
	}
	require.Len(t, failed, 1)
	assert.ErrorIs(t, failed[0], fs.ErrNotExist)
}

func TestWalkGoesOnAfterAnUnreadableFile(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("root and Windows read every file")
	}
	root := writeFiles(t, "a/a.go", "a/secret.go", "b/b.go")
	require.NoError(t, os.Chmod(filepath.Join(root, "a/secret.go"), 0))
	var failed []error
	var paths []string
	for p := range walk(root, func(err error) { failed = append(failed, err) }) {
		require.Len(t, p.Files, 1)
		paths = append(paths, p.Path)
	}
	assert.Equal(t, []string{"a", "b"}, paths)
	require.Len(t, failed, 1)
	assert.ErrorIs(t, failed[0], fs.ErrPermission)
}

func writeFiles(t *testing.T, names ...string) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, name := range names {
		path := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("package p\n"), 0o600))
	}
	return root
}
