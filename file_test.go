//go:build linux

package sbx_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFilesAreWrittenAndRead(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx := t.Context()
	for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 5 << 20} {
		data := make([]byte, size)
		_, _ = crand.Read(data)
		require.NoError(t, sb.WriteFile(ctx, "data", data, 0o640))
		read, err := sb.ReadFile(ctx, "data")
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, read))
		info, err := sb.Stat(ctx, "/work/data")
		require.NoError(t, err)
		assert.EqualValues(t, size, info.Size())
		assert.Equal(t, fs.FileMode(0o640), info.Mode())
	}
	output, err := sb.Command("ls", "-A").Output()
	require.NoError(t, err)
	assert.Equal(t, "data\n", string(output), "nothing else is left")

	_, err = sb.ReadFile(ctx, "missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	var path *fs.PathError
	require.ErrorAs(t, err, &path)
	assert.Equal(t, "missing", path.Path)
	_, err = sb.ReadFile(ctx, "/dev/zero")
	require.ErrorIs(t, err, sbx.ErrRefused)
	require.ErrorIs(t, sb.WriteFile(ctx, "/usr/x", nil, 0o600), syscall.EROFS)
}

// A change that was given up has ended before what comes next begins: here the end of a removal would take what was made after it.
func TestWhatWasGivenUpUndoesNothing(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for range 5 {
		require.NoError(t, sb.Command("sh", "-c", "mkdir tree && cd tree && seq 12000 | xargs touch").Run())
		ctx, cancel := context.WithCancel(t.Context())
		removed := make(chan error, 1)
		go func() { removed <- sb.RemoveAll(ctx, "tree") }()
		for { // until it is under way
			_, err := sb.Lstat(t.Context(), "tree/12000")
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			require.NoError(t, err)
		}
		cancel()
		if err := <-removed; err != nil { // it may have been faster
			require.ErrorIs(t, err, context.Canceled)
		}

		require.NoError(t, sb.MkdirAll(t.Context(), "tree", 0o755))
		require.NoError(t, sb.WriteFile(t.Context(), "tree/new", []byte("new"), 0o644))
		for range 20 {
			data, err := sb.ReadFile(t.Context(), "tree/new")
			require.NoError(t, err)
			require.Equal(t, "new", string(data))
			time.Sleep(5 * time.Millisecond)
		}
		require.NoError(t, sb.RemoveAll(t.Context(), "tree"))
	}
}

// A file that is open already waits, too.
func TestWhatWasGivenUpInAnOpenFile(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "file", nil, 0o600))
	old, content := bytes.Repeat([]byte("old "), 256<<10), bytes.Repeat([]byte("new "), 256<<10)
	g, err := sb.OpenFile(t.Context(), "file", os.O_RDWR, 0)
	require.NoError(t, err)
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		f, err := sb.OpenFile(ctx, "file", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(old, 0) // is on its way when it returns
		require.NoError(t, err)
		cancel()
		if err := f.Close(); err != nil { // all may have been written
			require.ErrorIs(t, err, context.Canceled)
		}
		_, err = g.WriteAt(content, 0)
		require.NoError(t, err)
		require.NoError(t, g.Sync())
		data, err := sb.ReadFile(t.Context(), "file")
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, data))
	}
	require.NoError(t, g.Close())
}

// Nor does a file that was written and forgotten.
func TestAFileThatWasGivenUpUndoesNothing(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that what happens by itself happens late
	piece := bytes.Repeat([]byte("old"), 64<<10)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		old, err := sb.Create(ctx, "f")
		require.NoError(t, err)
		for range 4 {
			_, err = old.Write(piece)
			require.NoError(t, err)
		}
		cancel()

		f, err := sb.Create(t.Context(), "f")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		time.Sleep(2 * time.Millisecond)
		info, err := sb.Stat(t.Context(), "f")
		require.NoError(t, err)
		require.Zero(t, info.Size())
		_, err = old.Write(piece)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, old.Close(), context.Canceled)
	}
}

func TestAnOpenFile(t *testing.T) {
	sb := openLocal(t).Sandbox()
	f, err := sb.Create(t.Context(), "f")
	require.NoError(t, err)
	_, err = io.WriteString(f, "hello world")
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("W"), 6)
	require.NoError(t, err)
	to, err := f.Seek(-5, io.SeekEnd)
	require.NoError(t, err)
	assert.EqualValues(t, 6, to)
	rest, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "World", string(rest))
	head := make([]byte, 5)
	_, err = f.ReadAt(head, 0)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(head))
	require.NoError(t, f.Truncate(2))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.Close(), fs.ErrClosed)
	data, err := sb.ReadFile(t.Context(), "f")
	require.NoError(t, err)
	assert.Equal(t, "he", string(data))
}

// A name that was forgotten does not cost the whole work folder.
func TestTheWorkFolderIsNotRemovedByADot(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "precious", nil, 0o644))
	require.NoError(t, sb.Mkdir(t.Context(), "folder", 0o755))
	for _, name := range []string{"./", "a/..", ".", "./.", "/work/.", "folder/."} {
		require.ErrorIs(t, sb.RemoveAll(t.Context(), name), fs.ErrInvalid, name)
		require.ErrorIs(t, sb.Remove(t.Context(), name), fs.ErrInvalid, name)
	}
	entries, err := sb.ReadDir(t.Context(), ".")
	require.NoError(t, err)
	assert.Len(t, entries, 2)
	require.NoError(t, sb.RemoveAll(t.Context(), "folder"))
	require.NoError(t, sb.RemoveAll(t.Context(), "folder"))
}

// A link to what is not there yet stays, too, and what it leads to is made, as package os does.
func TestALinkToNothingIsWrittenThrough(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "mkdir -p releases/deep dir; ln -s ../releases dir/releases; ln -s second dir/first; ln -s releases/v2 dir/second; ln -s loop loop; ln -s none/x lost; "+
		"ln -s releases/deep deep; ln -s deep/../v3 third; ln -s $PWD/deep/../v4 fourth").Run())
	require.NoError(t, sb.WriteFile(t.Context(), "dir/first", []byte("content"), 0o644))
	data, err := sb.ReadFile(t.Context(), "releases/v2")
	require.NoError(t, err)
	assert.Equal(t, "content", string(data))
	to, err := sb.Readlink(t.Context(), "dir/first")
	require.NoError(t, err)
	assert.Equal(t, "second", to)
	for link, file := range map[string]string{"third": "releases/v3", "fourth": "releases/v4"} { // .. is that of where a link leads
		require.NoError(t, sb.WriteFile(t.Context(), link, []byte(link), 0o644))
		data, err := sb.ReadFile(t.Context(), file)
		require.NoError(t, err)
		assert.Equal(t, link, string(data))
	}
	require.ErrorIs(t, sb.WriteFile(t.Context(), "loop", nil, 0o644), syscall.ELOOP)
	require.ErrorIs(t, sb.WriteFile(t.Context(), "lost", nil, 0o644), fs.ErrNotExist)
}

// As with *os.File the place is behind what was appended, wherever it was before.
func TestWhatIsAppendedMovesThePlaceToTheEnd(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "f", []byte("first\n"), 0o644))
	f, err := sb.OpenFile(t.Context(), "f", os.O_RDWR|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = io.WriteString(f, "second\n")
	require.NoError(t, err)
	to, err := f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	assert.EqualValues(t, 13, to)
	_, err = f.Seek(2, io.SeekStart)
	require.NoError(t, err)
	_, err = io.WriteString(f, "third\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Empty(t, string(rest))
	_, err = io.WriteString(f, "fourth\n")
	require.NoError(t, err)
	_, err = f.Seek(6, io.SeekStart)
	require.NoError(t, err)
	rest, err = io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "second\nthird\nfourth\n", string(rest))
	_, err = io.WriteString(f, "fifth\n")
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1))
	to, err = f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	assert.EqualValues(t, 32, to, "Truncate does not move it")
	require.NoError(t, f.Close())
}

// Careless: what a file was not opened for is an error, and nothing more.
func TestAFileLivesThroughMisuse(t *testing.T) {
	sb := openLocal(t).Sandbox()
	f, err := sb.OpenFile(t.Context(), "f", os.O_WRONLY|os.O_CREATE, 0o644)
	require.NoError(t, err)
	_, err = io.WriteString(f, "first")
	require.NoError(t, err)
	_, err = f.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.EBADF)
	require.ErrorContains(t, err, "read f: ")
	_, err = f.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, syscall.EBADF)
	require.ErrorIs(t, f.Truncate(-1), fs.ErrInvalid)
	_, err = io.WriteString(f, " and second")
	require.NoError(t, err)
	require.NoError(t, f.Close())

	f, err = sb.Open(t.Context(), "f")
	require.NoError(t, err)
	_, err = f.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EBADF)
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, syscall.EBADF)
	require.ErrorIs(t, f.Truncate(0), syscall.EBADF)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "first and second", string(data))
	require.NoError(t, f.Close())

	_, err = sb.OpenFile(t.Context(), "f", os.O_WRONLY|os.O_SYNC, 0)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorContains(t, err, "use File.Sync")

	folder, err := sb.Open(t.Context(), ".")
	require.NoError(t, err)
	_, err = folder.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.EISDIR)
	_, err = folder.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, syscall.EISDIR)
	_, err = folder.Stat()
	require.NoError(t, err)
	entries, err := folder.ReadDir(-1)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	require.NoError(t, folder.Close())
}

// Nor does an offset that no file can have cost it.
func TestAFileLivesThroughOffsetsThatAreFarAway(t *testing.T) {
	sb := openLocal(t).Sandbox()
	f, err := sb.Create(t.Context(), "f")
	require.NoError(t, err)
	_, err = io.WriteString(f, "content")
	require.NoError(t, err)
	for _, offset := range []int64{math.MaxInt64, math.MaxInt64 - 5} {
		_, err = f.ReadAt(make([]byte, 10), offset)
		require.ErrorIs(t, err, syscall.EINVAL)
		_, err = f.WriteAt(make([]byte, 10), offset)
		require.ErrorIs(t, err, syscall.EINVAL)
		_, err = f.Seek(offset, io.SeekStart)
		require.NoError(t, err)
		_, err = f.Write(make([]byte, 10))
		require.ErrorIs(t, err, syscall.EINVAL)
		_, err = f.Read(make([]byte, 10))
		require.Error(t, err)
	}
	_, err = f.ReadAt(make([]byte, 10), math.MaxInt64-10)
	require.ErrorIs(t, err, io.EOF)
	_, err = f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "content", string(data))
	require.NoError(t, f.Close())
}

func TestAFolderThatIsEmptiedWhileItIsRead(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "mkdir d && cd d && touch $(seq 20)").Run())
	folder, err := sb.Open(t.Context(), "d")
	require.NoError(t, err)
	defer folder.Close()
	for {
		entries, err := folder.ReadDir(5)
		if len(entries) == 0 {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.NoError(t, err)
		for _, entry := range append(entries, nil)[:len(entries)] { // what comes next is not behind it
			require.NoError(t, sb.Remove(t.Context(), "d/"+entry.Name()))
		}
	}
	left, err := sb.ReadDir(t.Context(), "d")
	require.NoError(t, err)
	assert.Empty(t, left)
	require.NoError(t, sb.WriteFile(t.Context(), "d/new", nil, 0o644))
	_, err = folder.Seek(0, io.SeekStart)
	require.NoError(t, err)
	entries, err := folder.ReadDir(-1)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "read again from the begin")
}

// As with *os.File it is the folder that is read which was opened.
func TestAFolderThatIsRenamedWhileItIsOpen(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "mkdir d && cd d && touch $(seq 1000) && echo content > 0 && ln -s none l").Run())
	folder, err := sb.Open(t.Context(), "d")
	require.NoError(t, err)
	defer folder.Close()
	require.NoError(t, sb.Rename(t.Context(), "d", "moved"))
	require.NoError(t, sb.Mkdir(t.Context(), "d", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "d/other", nil, 0o644))
	entries, err := folder.ReadDir(-1)
	require.NoError(t, err)
	listed, err := sb.ReadDir(t.Context(), "moved")
	require.NoError(t, err)
	require.Len(t, entries, 1002)
	assert.Equal(t, listed, entries)
	info, err := entries[0].Info()
	require.NoError(t, err)
	assert.EqualValues(t, len("content\n"), info.Size())

	require.NoError(t, sb.Chmod(t.Context(), "moved", 0o600))
	_, err = folder.Seek(0, io.SeekStart)
	require.NoError(t, err)
	_, err = folder.ReadDir(-1)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "readdir d: entry ")
	require.NoError(t, sb.Chmod(t.Context(), "moved", 0o700))
	entries, err = folder.ReadDir(-1)
	require.NoError(t, err)
	assert.Len(t, entries, 1002)

	require.NoError(t, sb.RemoveAll(t.Context(), "moved"))
	_, err = folder.Seek(0, io.SeekStart)
	require.NoError(t, err)
	_, err = folder.ReadDir(-1)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Careless: the error of Open was not looked at.
func TestAFileThatWasNotOpened(t *testing.T) {
	sb := openLocal(t).Sandbox()
	failed, err := sb.Open(t.Context(), "missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, f := range []*sbx.File{failed, {}} {
		_, read := f.Read(make([]byte, 1))
		_, readAt := f.ReadAt(make([]byte, 1), 0)
		_, written := f.Write([]byte("x"))
		_, writtenAt := f.WriteAt([]byte("x"), 0)
		_, sought := f.Seek(0, io.SeekStart)
		_, seen := f.Stat()
		_, listed := f.ReadDir(-1)
		for _, err := range []error{read, readAt, written, writtenAt, sought, seen, listed, f.Truncate(0), f.Sync(), f.Close()} {
			require.ErrorAs(t, err, new(*sbx.OptionError))
			assert.ErrorContains(t, err, "the file was not opened")
		}
	}
}

func TestASandboxIsAFileSystem(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.MkdirAll(t.Context(), "tree/a/b", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/a/b/c", []byte("c"), 0o644))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/d", nil, 0o644))
	require.NoError(t, sb.Symlink(t.Context(), "d", "tree/link"))
	tree := sb.FS(t.Context(), "tree")
	require.NoError(t, fstest.TestFS(tree, "a/b/c", "d", "link"))

	// Who uses it knows the names in it, and not where it is.
	_, open := tree.Open("none")
	_, read := fs.ReadFile(tree, "none")
	_, list := fs.ReadDir(tree, "none")
	_, stat := fs.Stat(tree, "none")
	_, lstat := fs.Lstat(tree, "none")
	_, link := fs.ReadLink(tree, "none")
	for _, err := range []error{open, read, list, stat, lstat, link} {
		failed, ok := err.(*fs.PathError) //nolint:errorlint // as fs.Sub, too, looks at it
		require.True(t, ok, "%T", err)
		assert.Equal(t, "none", failed.Path)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorAs(t, err, new(*sbx.SandboxError))
	}
	for _, folder := range []string{"tree", "tree/", ".", "", "/"} {
		tree := sb.FS(t.Context(), folder)
		info, err := fs.Stat(tree, ".")
		require.NoError(t, err)
		assert.Equal(t, ".", info.Name(), folder)
		root, err := tree.Open(".")
		require.NoError(t, err)
		info, err = root.Stat()
		require.NoError(t, err)
		assert.Equal(t, ".", info.Name(), folder)
		require.NoError(t, root.Close())
	}
}

// As with os.DirFS the folder is then what the link leads to.
func TestAFileSystemOnALink(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Mkdir(t.Context(), "tree", 0o755))
	require.NoError(t, sb.Symlink(t.Context(), "tree", "link"))
	for _, folder := range []string{"link", "./link", "/work/link", "link/"} {
		tree := sb.FS(t.Context(), folder)
		info, err := fs.Lstat(tree, ".")
		require.NoError(t, err)
		assert.True(t, info.IsDir(), folder)
		_, err = fs.ReadLink(tree, ".")
		require.ErrorIs(t, err, syscall.EINVAL, folder)
		entries, err := fs.ReadDir(tree, ".")
		require.NoError(t, err)
		assert.Empty(t, entries)
	}
	info, err := sb.Lstat(t.Context(), "link/.")
	require.NoError(t, err)
	assert.True(t, info.IsDir())
	require.Error(t, sb.WriteFile(t.Context(), "new/.", nil, 0o644))
	require.Error(t, sb.WriteFile(t.Context(), "tree/.", nil, 0o644))
}

func TestWhatIsNotWholeIsNotThere(t *testing.T) {
	sb := openLocal(t, sbx.Limit(sbx.Resources{DiskMiB: 8})).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "f", []byte("old"), 0o644))
	err := sb.WriteFile(t.Context(), "f", make([]byte, 16<<20), 0o644)
	require.ErrorIs(t, err, syscall.ENOSPC)
	data, err := sb.ReadFile(t.Context(), "f")
	require.NoError(t, err)
	assert.Equal(t, "old", string(data))
	ctx, cancel := context.WithCancel(t.Context())
	f, err := sb.Create(ctx, "g")
	require.NoError(t, err)
	cancel()
	_, err = f.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, f.Close())
	entries, err := sb.ReadDir(t.Context(), ".")
	require.NoError(t, err)
	assert.Len(t, entries, 2, "f, g, and nothing half-made")

	// A file that is here stays as it was, too.
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	require.NoError(t, os.WriteFile(target, []byte("old"), 0o644))
	require.NoError(t, sb.Command("sh", "-c", "head -c 6000000 /dev/urandom > big").Run())
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, sb.CopyFrom(ctx, "big", target), context.Canceled)
	for range 20 { // at some place in between
		ctx, cancel = context.WithCancel(t.Context())
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for ctx.Err() == nil {
				if entries, _ := os.ReadDir(dir); len(entries) > 1 {
					cancel()
				}
			}
		}()
		err = sb.CopyFrom(ctx, "big", target)
		cancel()
		<-stop
		entries, readErr := os.ReadDir(dir)
		require.NoError(t, readErr)
		require.Len(t, entries, 1)
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
			break
		}
	}
	require.ErrorIs(t, err, context.Canceled, "it was never caught in between")
	data, err = os.ReadFile(target)
	require.NoError(t, err)
	if len(data) != 6_000_000 { // by a copy that was done before
		assert.Equal(t, "old", string(data))
	}
}

// As with package os. A copy that is made again replaces what the first one made, which has the modes of a repository, say.
func TestAProtectedFileIsNotReplaced(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "f", []byte("old"), 0o444))
	require.NoError(t, sb.Symlink(t.Context(), "f", "link"))
	for _, name := range []string{"f", "link"} {
		err := sb.WriteFile(t.Context(), name, []byte("new"), 0o644)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "open "+name+": permission denied")
	}
	data, err := sb.ReadFile(t.Context(), "f")
	require.NoError(t, err)
	assert.Equal(t, "old", string(data))
	entries, err := sb.ReadDir(t.Context(), ".")
	require.NoError(t, err)
	assert.Len(t, entries, 2)
	require.NoError(t, sb.Chmod(t.Context(), "f", 0o644))
	require.NoError(t, sb.WriteFile(t.Context(), "f", []byte("new"), 0o644))

	require.NoError(t, sb.Command("sh", "-c", "cp /bin/sleep . && chmod 755 sleep").Run())
	running := sb.Command("./sleep", "1000")
	require.NoError(t, running.Start())
	require.NoError(t, sb.WriteFile(t.Context(), "sleep", []byte("new"), 0o755), "one that runs can be replaced")
	require.NoError(t, running.Kill())
	require.Error(t, running.Wait())

	tree := t.TempDir()
	for _, content := range []string{"first", "second"} {
		require.NoError(t, os.WriteFile(tree+"/object", []byte(content), 0o644))
		require.NoError(t, os.Chmod(tree+"/object", 0o444))
		require.NoError(t, sb.CopyTo(t.Context(), tree, "tree"))
		data, err := sb.ReadFile(t.Context(), "tree/object")
		require.NoError(t, err)
		assert.Equal(t, content, string(data))
		require.NoError(t, os.Chmod(tree+"/object", 0o644))
	}
}

func TestALongFileIsRefusedWhole(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "truncate -s 64M exact; truncate -s 67108865 long").Run())
	data, err := sb.ReadFile(t.Context(), "exact")
	require.NoError(t, err)
	assert.Len(t, data, sbx.MaxReadFile)
	_, err = sb.ReadFile(t.Context(), "long")
	require.ErrorIs(t, err, sbx.ErrFileTooLong)
	f, err := sb.Open(t.Context(), "long")
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, f)
	require.NoError(t, err)
	assert.EqualValues(t, sbx.MaxReadFile+1, n)
	require.NoError(t, f.Close())
}

func TestFilesOfTheSystemCanBeRead(t *testing.T) {
	sb := openLocal(t).Sandbox()
	data, err := sb.ReadFile(t.Context(), "/proc/self/status") // says that it has no bytes
	require.NoError(t, err)
	assert.Contains(t, string(data), "Name:")
	data, err = sb.ReadFile(t.Context(), "/etc/hostname")
	require.NoError(t, err)
	assert.Equal(t, "sandbox\n", string(data))
}

// What an int64 has of nanoseconds is from 1678 to 2262, and a sandbox can say what it likes.
func TestTimesOfAnyYear(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for text, seconds := range map[string]int64{"@-100000000000.5": -100_000_000_001, "@-0.5": -1, "@0.5": 0, "@100000000000.5": 100_000_000_000} {
		require.NoError(t, sb.Command("touch", "-d", text, "file").Run())
		info, err := sb.Stat(t.Context(), "file")
		require.NoError(t, err)
		entries, err := sb.ReadDir(t.Context(), ".")
		require.NoError(t, err)
		require.Len(t, entries, 1)
		listed, err := entries[0].Info()
		require.NoError(t, err)
		for _, changed := range []time.Time{info.ModTime(), listed.ModTime()} {
			assert.Equal(t, seconds, changed.Unix())
			assert.Equal(t, 500_000_000, changed.Nanosecond())
		}
	}
}

func TestPathsAreChanged(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx := t.Context()
	require.NoError(t, sb.MkdirAll(ctx, "a/b", 0o755))
	require.NoError(t, sb.MkdirAll(ctx, "a/b", 0o755))
	require.ErrorIs(t, sb.Mkdir(ctx, "a", 0o755), fs.ErrExist)
	require.NoError(t, sb.WriteFile(ctx, "a/b/c", nil, 0o644))
	require.Error(t, sb.Remove(ctx, "a"))
	require.NoError(t, sb.Chmod(ctx, "a/b/c", 0o600))
	require.NoError(t, sb.Symlink(ctx, "c", "a/b/l"))
	link, err := sb.Readlink(ctx, "a/b/l")
	require.NoError(t, err)
	assert.Equal(t, "c", link)
	info, err := sb.Lstat(ctx, "a/b/l")
	require.NoError(t, err)
	assert.Equal(t, fs.ModeSymlink, info.Mode().Type())
	info, err = sb.Stat(ctx, "a/b/l")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	require.NoError(t, sb.Chmod(ctx, "a/b", 0o700|fs.ModeSticky|fs.ModeSetgid))
	info, err = sb.Stat(ctx, "a/b")
	require.NoError(t, err)
	assert.Equal(t, fs.ModeDir|0o700|fs.ModeSticky|fs.ModeSetgid, info.Mode())
	for _, to := range []string{"x/y", "a"} {
		var named *os.LinkError
		require.ErrorAs(t, sb.Rename(ctx, "a/missing", to), &named)
		assert.Equal(t, [3]string{"rename", "a/missing", to}, [3]string{named.Op, named.Old, named.New})
		require.ErrorIs(t, named, fs.ErrNotExist)
		require.ErrorAs(t, sb.Symlink(ctx, "c", "a/b/l"), &named)
		assert.Equal(t, [3]string{"symlink", "c", "a/b/l"}, [3]string{named.Op, named.Old, named.New})
		require.ErrorIs(t, named, fs.ErrExist)
	}
	require.ErrorContains(t, sb.Rename(ctx, "a/missing", "d"), sb.ID()+": rename a/missing d: no such file or directory")
	require.NoError(t, sb.Rename(ctx, "a/b", "d"))
	entries, err := sb.ReadDir(ctx, "d")
	require.NoError(t, err)
	require.Len(t, entries, 2)
	assert.Equal(t, "c", entries[0].Name())
	require.NoError(t, sb.RemoveAll(ctx, "d"))
	require.NoError(t, sb.RemoveAll(ctx, "d"))
	_, err = sb.ReadDir(ctx, "d")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, sb.WriteFile(ctx, "c", nil, 0o644))
	for bad, as := range map[string]error{"": syscall.ENOENT, "a\x00b": fs.ErrInvalid, strings.Repeat("x", 5000): syscall.ENAMETOOLONG, strings.Repeat("x", 300): syscall.ENAMETOOLONG} {
		_, err = sb.Stat(ctx, bad)
		require.ErrorIs(t, err, as)
		require.ErrorIs(t, sb.Rename(ctx, "c", bad), as)
		require.ErrorIs(t, sb.WriteFile(ctx, bad, nil, 0o644), as)
	}
	require.NoError(t, sb.RemoveAll(ctx, ""))
	require.NoError(t, sb.Mkdir(ctx, "sticky", 0o755|fs.ModeSticky))
	require.NoError(t, sb.MkdirAll(ctx, "deep/sticky", 0o755|fs.ModeSticky))
	for _, name := range []string{"sticky", "deep/sticky"} {
		info, err = sb.Stat(ctx, name)
		require.NoError(t, err)
		assert.Equal(t, fs.ModeDir|fs.ModeSticky|0o755, info.Mode())
	}
	require.NoError(t, sb.Stop(ctx))
	_, err = sb.ReadFile(ctx, "x")
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	require.ErrorIs(t, sb.CopyFrom(ctx, "x", t.TempDir()), sbx.ErrNotRunning)
}

// As on this machine, a path that ends with a slash is a folder's, or nothing's.
func TestATrailingSlashMeansAFolder(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx := t.Context()
	require.NoError(t, sb.Mkdir(ctx, "folder/", 0o755))
	require.NoError(t, sb.WriteFile(ctx, "folder/file", []byte("content"), 0o644))
	require.NoError(t, sb.Symlink(ctx, "folder", "link"))
	work, err := sb.Command("pwd").Output()
	require.NoError(t, err)
	for _, prefix := range []string{"", strings.TrimSpace(string(work)) + "/"} {
		for name, errno := range map[string]syscall.Errno{"folder/file/": syscall.ENOTDIR, "folder/new/": syscall.ENOENT} {
			_, err := sb.Stat(ctx, prefix+name)
			require.ErrorIs(t, err, errno)
			_, err = sb.ReadFile(ctx, prefix+name)
			require.ErrorIs(t, err, errno)
			require.ErrorIs(t, sb.Remove(ctx, prefix+name), errno)
			require.ErrorIs(t, sb.Chmod(ctx, prefix+name, 0o600), errno)
		}
		for _, name := range []string{"folder/file/", "folder/new/", "folder/"} {
			require.ErrorIs(t, sb.WriteFile(ctx, prefix+name, []byte("other"), 0o644), syscall.EISDIR)
			_, err := sb.Create(ctx, prefix+name)
			require.ErrorIs(t, err, syscall.EISDIR)
		}
		info, err := sb.Lstat(ctx, prefix+"link/")
		require.NoError(t, err)
		assert.True(t, info.IsDir())
		entries, err := sb.ReadDir(ctx, prefix+"link/")
		require.NoError(t, err)
		require.Len(t, entries, 1)
	}
	data, err := sb.ReadFile(ctx, "folder/file")
	require.NoError(t, err)
	assert.Equal(t, "content", string(data))
	require.NoError(t, sb.RemoveAll(ctx, "folder/"))
}

// With the local driver nothing could be removed anyway, but its own: with driver/process it would be this machine.
func TestTheRootIsNotRemoved(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx := t.Context()
	require.NoError(t, sb.WriteFile(ctx, "/tmp/file", nil, 0o644))
	for _, root := range []string{"/", "//", "/.//", "../..", "/tmp/..", "../"} {
		require.ErrorIs(t, sb.RemoveAll(ctx, root), sbx.ErrRefused, root)
	}
	_, err := sb.Stat(ctx, "/tmp/file")
	require.NoError(t, err)
	require.NoError(t, sb.RemoveAll(ctx, "../tmp/file"))
}
