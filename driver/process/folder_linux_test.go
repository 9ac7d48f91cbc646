package process

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A session's folder, and in it one for each sandbox, is there as long as they are.
func TestFolders(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	outside := t.TempDir()
	kept := filepath.Join(outside, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	session, sandbox, worker := startRole(t.Context(), t, "worker")
	t.Cleanup(func() { closeStreams(t, worker) })

	folder := worker.(*process).cmd.Dir
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, entries)
	for path := folder; path != os.Getenv("TMPDIR"); path = filepath.Dir(path) {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.ModeDir|0o700, info.Mode(), path)
	}

	// What is hard to remove, and what is not to be.
	deep := filepath.Join(folder, "a", "b")
	require.NoError(t, os.MkdirAll(deep, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(deep, "file"), nil, 0o400))
	require.NoError(t, os.Symlink(outside, filepath.Join(deep, "link")))
	require.NoError(t, os.Symlink(outside, filepath.Join(folder, "link")))
	require.NoError(t, os.Chmod(deep, 0o500))
	require.NoError(t, os.Chmod(filepath.Dir(deep), 0o000))
	require.NoError(t, sandbox.Stop(t.Context()))
	assert.NoFileExists(t, folder)
	assert.DirExists(t, filepath.Dir(folder))
	require.NoError(t, sandbox.Stop(t.Context()))

	// What is left of the sandbox goes with the session.
	left, err := session.Create(t.Context(), driver.Spec{ID: "left"})
	require.NoError(t, err)
	require.NoError(t, session.Close(t.Context()))
	assert.NoFileExists(t, filepath.Dir(folder))
	require.NoError(t, session.Close(t.Context()))
	require.NoError(t, left.Stop(t.Context()))
	assert.FileExists(t, kept)
}

// What killed programs have left is removed by the next session, and nothing else is.
func TestFoldersOfKilledPrograms(t *testing.T) {
	temporary, outside := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temporary)
	begin := func() (program *exec.Cmd, folder string) {
		program = exec.Command("/proc/self/exe")
		program.Env = []string{testRole + "=program", "TMPDIR=" + temporary}
		program.Stderr = os.Stderr
		stdin, err := program.StdinPipe()
		require.NoError(t, err)
		stdout, err := program.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, program.Start())
		t.Cleanup(func() { _, _ = stdin.Close(), program.Wait() })
		folder, err = bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		return program, strings.TrimSpace(folder)
	}
	killed, left := begin()
	_, used := begin()
	require.DirExists(t, left)
	require.NoError(t, killed.Process.Kill())
	_, _ = killed.Process.Wait()
	require.NoError(t, os.Symlink(outside, filepath.Join(temporary, folderPrefix+"link")))
	require.NoError(t, os.WriteFile(filepath.Join(temporary, folderPrefix+"file"), nil, 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(left, "link")))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600))
	others := filepath.Join(temporary, folderPrefix+"another-user")
	require.NoError(t, os.Mkdir(others, 0o700))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(others, 12345, 12345))
	}

	session, err := New().Open(t.Context(), sessionSpec())
	require.NoError(t, err)
	assert.NoFileExists(t, left)
	assert.NoFileExists(t, filepath.Dir(left))
	assert.DirExists(t, used, "its program runs")
	assert.FileExists(t, filepath.Join(outside, "kept"))
	assert.FileExists(t, filepath.Join(temporary, folderPrefix+"file"), "it is no folder")
	_, err = os.Lstat(filepath.Join(temporary, folderPrefix+"link"))
	assert.NoError(t, err, "it is no folder")
	if os.Geteuid() == 0 {
		assert.DirExists(t, others)
	}
	require.NoError(t, session.Close(t.Context()))
	assert.DirExists(t, used)
}

func closeStreams(t *testing.T, worker driver.Process) {
	for _, stream := range []io.Closer{worker.Conn(), worker.Handshake(), worker.Stdout(), worker.Stderr(), worker.Ledger()} {
		assert.NoError(t, stream.Close())
	}
}
