package drivertest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The clauses about what a sandbox shows of the machine.

// reachable returns a new folder with a folder of that mode in it, both open to every user.
func (s *suite) reachable(mode fs.FileMode) string {
	folder := filepath.Join(s.TempDir(), "folder")
	require.NoError(s, os.Mkdir(folder, mode))
	require.NoError(s, os.Chmod(folder, mode)) // whatever the mask is
	// The folders that TempDir makes are its caller's alone with some masks.
	for path := filepath.Dir(folder); path != filepath.Clean(os.TempDir()) && path != filepath.Dir(path); path = filepath.Dir(path) {
		require.NoError(s, os.Chmod(path, 0o755))
	}
	return folder
}

func (s *suite) mounts() {
	shown, link := s.reachable(0o755), filepath.Join(s.TempDir(), "link")
	require.NoError(s, os.Symlink(shown, link))
	file := filepath.Join(shown, "file")
	require.NoError(s, os.WriteFile(file, []byte("of the machine"), 0o644))
	require.NoError(s, os.Chmod(file, 0o666))

	mounts := []driver.Mount{
		{Source: shown, Target: "/data/shown"}, {Source: shown, Target: "/work/shown"}, {Source: file, Target: "/etc/the.conf"}, {Source: link, Target: "/data/link"},
	}
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-mounts", Mounts: mounts})
	if !s.has.Mounts {
		s.refused(err, mounts[0])
		return
	}
	require.NoError(s, err)
	w, _ := s.launch(sandbox)
	for _, path := range []string{"/data/shown/file", "/work/shown/file", "/data/link/file", "/etc/the.conf"} {
		assert.Equal(s, "of the machine", result[string](s, "readFile", call(s, w, "readFile", path)), path)
		assert.NotEmpty(s, result[string](s, "writeFile", call(s, w, "writeFile", path)), path)
	}
	// What is around a mount is the sandbox's own root.
	for _, path := range []string{"/data/shown/new", "/work/shown/new", "/data/new"} {
		assert.NotEmpty(s, result[string](s, "writeFile", call(s, w, "writeFile", path)), path)
	}
	content, err := os.ReadFile(file)
	require.NoError(s, err)
	assert.Equal(s, "of the machine", string(content))

	// The next sandbox has nothing of it.
	w, _ = s.launch(s.create())
	for _, path := range []string{"/data", "/etc/the.conf", "/work/shown"} {
		assert.NotEmpty(s, result[string](s, "find", call(s, w, "find", path)), path)
	}
}

func (s *suite) writableMounts() {
	open := s.reachable(0o777)
	file := filepath.Join(s.reachable(0o755), "file")
	require.NoError(s, os.WriteFile(file, nil, 0o666))
	require.NoError(s, os.Chmod(file, 0o666))
	mounts := []driver.Mount{{Source: open, Target: "/work/open", Writable: true}, {Source: file, Target: "/data/file", Writable: true}}
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-mounts", Mounts: mounts})
	if !s.has.WritableMounts {
		s.refused(err, mounts[0])
		return
	}
	require.NoError(s, err)
	w, _ := s.launch(sandbox)
	for _, path := range []string{"/work/open/new", "/data/file"} {
		require.Empty(s, result[string](s, "writeFile", call(s, w, "writeFile", path)))
		assert.Equal(s, "written", result[string](s, "readFile", call(s, w, "readFile", path)))
	}
	require.NoError(s, sandbox.Stop(s.ctx))
	for _, path := range []string{filepath.Join(open, "new"), file} { // they are the machine's
		content, err := os.ReadFile(path)
		require.NoError(s, err)
		assert.Equal(s, "written", string(content))
	}
}

// refused checks the error about a mount that can't be.
func (s *suite) refused(err error, m driver.Mount) {
	refusal, ok := errors.AsType[*driver.MountError](err)
	require.True(s, ok, "%v", err)
	assert.Equal(s, s.driver.Name(), refusal.Driver)
	assert.Equal(s, m, refusal.Mount)
	assert.Error(s, refusal.Err)
}

func (s *suite) badMounts() {
	folder := s.TempDir()
	nowhere := filepath.Join(folder, "nowhere")
	for _, mounts := range [][]driver.Mount{
		{{Source: nowhere, Target: "/data"}},
		{{Source: folder, Target: "/usr/data"}},
		{{Source: folder, Target: "/work"}},
		{{Source: folder, Target: "data"}},
		{{Source: folder, Target: "/data/../usr"}},
		{{Source: "folder", Target: "/data"}},
		{{Source: "/", Target: "/data"}},
		{{Source: folder, Target: "/data"}, {Source: folder, Target: "/data"}},
		{{Source: folder, Target: "/data"}, {Source: folder, Target: "/data/below"}},
		{{Source: folder, Target: "/data/below"}, {Source: folder, Target: "/data"}},
	} {
		_, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-bad-mounts", Mounts: mounts})
		s.refused(err, mounts[len(mounts)-1])
	}
	_, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-bad-mounts", Mounts: []driver.Mount{{Source: nowhere, Target: "/data"}}})
	require.ErrorIs(s, err, fs.ErrNotExist)

	// Nothing is left of what failed.
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-bad-mounts"})
	require.NoError(s, err)
	running, err := launch.Start(s.ctx, sandbox, launch.Config{Session: "drivertest", Sandbox: "drivertest", Divert: worker.Diverts(), Lease: patience})
	require.NoError(s, err)
	require.NoError(s, sandbox.Stop(context.Background()))
	running.Close()
}
