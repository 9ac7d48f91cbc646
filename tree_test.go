//go:build linux

package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// makeTree makes a folder with most of what there is.
func makeTree(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "closed"), 0o750))
	for name, mode := range map[string]fs.FileMode{"a/plain": 0o644, "a/b/run": 0o755, "closed/secret": 0o600, "empty": 0o644, "odd \n name é \xff": 0o644, "-rf": 0o644} {
		content := name
		if name == "empty" {
			content = ""
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	require.NoError(t, os.Symlink("../plain", filepath.Join(dir, "a", "b", "link")))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	require.NoError(t, err)
	_, err = sparse.WriteAt([]byte("end"), 300<<20)
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(301<<20))
	require.NoError(t, sparse.Close())
	return dir
}

func TestACopyNeedsATarget(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.MkdirAll(t.Context(), "tree", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/file", nil, 0o644))
	t.Chdir(t.TempDir())
	for _, source := range []string{"tree", "tree/file"} {
		require.ErrorIs(t, sb.CopyFrom(t.Context(), source, ""), fs.ErrNotExist)
	}
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	assert.Empty(t, entries, "the empty path is not this program's folder")
}

// What a folder lists and does not let be entered is not taken for gone: no copy or listing lacks it in silence.
func TestAFolderThatCantBeEnteredIsNotEmpty(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "mkdir -p tree/sub; echo 1 > tree/sub/file; chmod 644 tree/sub").Run())
	for name, err := range map[string]error{
		"CopyFrom": sb.CopyFrom(t.Context(), "tree", filepath.Join(t.TempDir(), "copy")),
		"ReadDir":  func() error { _, err := sb.ReadDir(t.Context(), "tree/sub"); return err }(),
		"FS":       func() error { _, err := fs.ReadDir(sb.FS(t.Context(), "tree"), "sub"); return err }(),
	} {
		require.ErrorIs(t, err, fs.ErrPermission, name)
		require.ErrorContains(t, err, `entry "file"`, name)
	}

	// Nor is what has too long a path.
	require.NoError(t, sb.Command("sh", "-c", "n=$(printf %0250d 0); mkdir deep; cd deep; for i in $(seq 20); do mkdir $n; cd -P $n; done; echo 1 > file").Run())
	require.ErrorContains(t, sb.CopyFrom(t.Context(), "deep", filepath.Join(t.TempDir(), "copy")), "file name too long")
}

// Permissions are those of the source, whatever the masks, and whatever was there.
func TestPermissionsAreCopied(t *testing.T) {
	sb := openLocal(t).Sandbox()
	source, target := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "a", "target")
	require.NoError(t, os.MkdirAll(filepath.Join(source, "folder"), 0o700))
	modes := map[string]fs.FileMode{".": 0o700, "folder": 0o775, "shared": 0o666, "script": 0o777, "private": 0o600}
	for name, mode := range modes {
		if name != "." && name != "folder" {
			require.NoError(t, os.WriteFile(filepath.Join(source, name), nil, 0o600))
		}
		require.NoError(t, os.Chmod(filepath.Join(source, name), mode))
	}
	check := func(message string) {
		require.NoError(t, sb.CopyFrom(t.Context(), "a/tree", target), message)
		for name, mode := range modes {
			inside, err := sb.Stat(t.Context(), path.Join("a/tree", name))
			require.NoError(t, err)
			assert.Equal(t, mode, inside.Mode().Perm(), "%s: %s in the sandbox", message, name)
			outside, err := os.Stat(filepath.Join(target, name))
			require.NoError(t, err)
			assert.Equal(t, mode, outside.Mode().Perm(), "%s: %s of the copy", message, name)
		}
	}
	require.NoError(t, sb.CopyTo(t.Context(), source, "a/tree"))
	check("new")
	require.NoError(t, os.Chmod(filepath.Join(source, "private"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(source, "script"), 0o600))
	modes["private"], modes["script"] = 0o755, 0o600
	require.NoError(t, sb.CopyTo(t.Context(), source, "a/tree"))
	check("again")
	for _, name := range []string{"/tmp/slash/", "/tmp/dot/."} {
		require.NoError(t, sb.CopyTo(t.Context(), source, name))
		info, err := sb.Stat(t.Context(), name)
		require.NoError(t, err)
		assert.Equal(t, modes["."], info.Mode().Perm(), name)
	}

	// A folder that was there, as /work is, is not the copy's own.
	require.NoError(t, os.Chmod(source, 0o755))
	require.NoError(t, sb.CopyTo(t.Context(), source, "."))
	work, err := sb.Stat(t.Context(), ".")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o700), work.Mode().Perm())
	there := t.TempDir()
	require.NoError(t, os.Chmod(there, 0o755))
	require.NoError(t, sb.CopyFrom(t.Context(), ".", there))
	info, err := os.Stat(there)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o755), info.Mode().Perm())
}

// A folder in which files come and go can be copied all the same.
func TestWhatIsGoneIsLeftOut(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.MkdirAll(t.Context(), "tree/sub", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/z", []byte("stays"), 0o644))
	churn := sb.Command("sh", "-c", "while :; do mkdir tree/d; : > tree/d/f; : > tree/sub/f; ln -s f tree/link; rm -r tree/d tree/sub/f tree/link; done")
	require.NoError(t, churn.Start())
	for range 50 {
		target := filepath.Join(t.TempDir(), "copy")
		require.NoError(t, sb.CopyFrom(t.Context(), "tree", target))
		data, err := os.ReadFile(filepath.Join(target, "z"))
		require.NoError(t, err)
		assert.Equal(t, "stays", string(data))
	}
	require.NoError(t, churn.Kill())
	require.Error(t, churn.Wait())

	// A caller whose context ends because something else was not there gets no half of a tree.
	many := "many"
	require.NoError(t, sb.Command("sh", "-c", "for i in $(seq 300); do mkdir -p many/$i; : > many/$i/f; done").Run())
	ctx, cancel := context.WithCancelCause(t.Context())
	copying := filepath.Join(t.TempDir(), "copy")
	go func() {
		for entries, _ := os.ReadDir(copying); len(entries) < 10 && t.Context().Err() == nil; entries, _ = os.ReadDir(copying) {
			time.Sleep(time.Millisecond)
		}
		cancel(fs.ErrNotExist)
	}()
	if err := sb.CopyFrom(ctx, many, copying); err == nil { // it was faster
		entries, err := os.ReadDir(copying)
		require.NoError(t, err)
		assert.Len(t, entries, 300)
	}

	// What is gone here is an error.
	target := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, sb.Command("sh", "-c", "rm -r tree/sub; truncate -s 2G tree/a").Run())
	removed := make(chan error, 1)
	go func() {
		for entries, _ := os.ReadDir(target); len(entries) == 0 && t.Context().Err() == nil; entries, _ = os.ReadDir(target) {
			time.Sleep(time.Millisecond)
		}
		err := os.RemoveAll(target)
		for ; errors.Is(err, syscall.ENOTEMPTY); err = os.RemoveAll(target) {
		}
		removed <- err
	}()
	err := sb.CopyFrom(t.Context(), "tree", target)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, <-removed)
}

func TestWhatIsGoneHereIsLeftOut(t *testing.T) {
	sb := openLocal(t).Sandbox()
	tree := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(tree, "z"), []byte("stays"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	churned := make(chan struct{})
	go func() {
		defer close(churned)
		for sub := filepath.Join(tree, "sub"); ctx.Err() == nil; {
			_ = os.MkdirAll(filepath.Join(sub, "deep"), 0o700)
			_ = os.WriteFile(filepath.Join(sub, "deep", "file"), nil, 0o600)
			_ = os.Symlink("z", filepath.Join(sub, "link"))
			_ = os.RemoveAll(sub)
		}
	}()
	for i := range 50 {
		target := fmt.Sprint("copy", i)
		require.NoError(t, sb.CopyTo(t.Context(), tree, target))
		data, err := sb.ReadFile(t.Context(), target+"/z")
		require.NoError(t, err)
		assert.Equal(t, "stays", string(data))
	}
	cancel()
	<-churned
}

// A file that is being written is in no listing, and so in no copy, under the name that it has until it is whole.
func TestUnfinishedFilesAreNotListed(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Mkdir(t.Context(), "tree", 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		data := make([]byte, 16<<20)
		for ctx.Err() == nil {
			_ = sb.WriteFile(ctx, "tree/file", data, 0o644)
		}
	}()
	for seen := 0; seen < 10; {
		names, err := sb.Command("ls", "-A", "tree").Output()
		require.NoError(t, err)
		if strings.Contains(string(names), ".sbx-") {
			seen++
		}
		entries, err := sb.ReadDir(t.Context(), "tree")
		require.NoError(t, err)
		for _, entry := range entries {
			require.Equal(t, "file", entry.Name())
		}
	}
	cancel()
	<-done
}

// What a sandbox, or a program, left that was killed is copied like the rest, and takes the place of nothing that is copied beside it.
func TestWhatWasLeftUnfinishedIsCopied(t *testing.T) {
	sb := openLocal(t).Sandbox()
	parent, err := sb.Command("sh", "-c", "echo $PPID").Output()
	require.NoError(t, err)
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	content := map[string][]byte{}
	for i := range 200 {
		content[fmt.Sprintf("file-%d", i)] = bytes.Repeat([]byte{byte(i)}, 100_000)
		content[fmt.Sprintf(".sbx-%s-%d", bytes.TrimSpace(parent), i+1)] = []byte("left in a sandbox")
		content[fmt.Sprintf(".sbx-%d-%d", os.Getpid(), i+1)] = []byte("left by a program")
	}
	for name, data := range content {
		require.NoError(t, os.WriteFile(filepath.Join(source, name), data, 0o600))
	}
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	require.NoError(t, sb.CopyFrom(t.Context(), "tree", target))
	entries, err := os.ReadDir(target)
	require.NoError(t, err)
	assert.Len(t, entries, len(content))
	for name, data := range content {
		copied, err := os.ReadFile(filepath.Join(target, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, copied), name)
	}
}

// Where this program may not open more files, a copy fails, and leaves none that is not whole.
func TestACopyWithTooFewDescriptorsLeavesNothing(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "mkdir -p tree/a/b && cd tree/a/b && for i in $(seq 60); do echo $i >$i; done").Run())
	target := t.TempDir()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	failed := 0
	for i := range 60 {
		few := syscall.Rlimit{Cur: uint64(len(open) + 3 + i%15), Max: limit.Max}
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		err := sb.CopyFrom(t.Context(), "tree", filepath.Join(target, strconv.Itoa(i)))
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			failed++
		}
	}
	assert.NotZero(t, failed)
	require.NoError(t, filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		assert.NotContains(t, path, ".sbx-")
		return err
	}))
}

// Copies of one sandbox share how many files are copied at the same time there.
func TestCopiesAtOnceInASandboxWithFewDescriptors(t *testing.T) {
	sb := openLocal(t, sbx.Limit(sbx.Resources{OpenFiles: 40})).Sandbox()
	source, out := t.TempDir(), t.TempDir()
	for i := range 100 {
		require.NoError(t, os.WriteFile(filepath.Join(source, strconv.Itoa(i)), make([]byte, 1000), 0o600))
	}
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	var copies errgroup.Group
	for i := range 4 {
		copies.Go(func() error { return sb.CopyTo(t.Context(), source, fmt.Sprintf("tree-%d", i)) })
		copies.Go(func() error { return sb.CopyFrom(t.Context(), "tree", filepath.Join(out, strconv.Itoa(i))) })
	}
	require.NoError(t, copies.Wait())
}

// A link is replaced or not, also where the context ends meanwhile.
func TestACopyThatIsGivenUpLosesNoLink(t *testing.T) {
	sb := openLocal(t).Sandbox()
	source := t.TempDir()
	const links = 20
	for i := range links {
		require.NoError(t, os.Symlink("target", filepath.Join(source, strconv.Itoa(i))))
	}
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	begun := time.Now()
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	whole := time.Since(begun)
	for i := range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/200)
		err := sb.CopyTo(ctx, source, "tree")
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		entries, err := sb.ReadDir(t.Context(), "tree")
		require.NoError(t, err)
		require.Len(t, entries, links)
	}
}

// Each finds links that another has made since it looked, and makes them anew.
func TestCopiesAtOnceIntoOneTarget(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx, tree, out := t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "out")
	for i := range 30 {
		require.NoError(t, os.Symlink(strconv.Itoa(i), filepath.Join(tree, "link"+strconv.Itoa(i))))
		require.NoError(t, os.WriteFile(filepath.Join(tree, strconv.Itoa(i)), []byte(strconv.Itoa(i)), 0o644))
	}
	var copies errgroup.Group
	for range 8 {
		copies.Go(func() error { return sb.CopyTo(ctx, tree, "tree") })
	}
	require.NoError(t, copies.Wait())
	for range 8 {
		copies.Go(func() error { return sb.CopyFrom(ctx, "tree", out) })
	}
	require.NoError(t, copies.Wait())
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	assert.Len(t, entries, 60)
	for i := range 30 {
		data, err := os.ReadFile(filepath.Join(out, "link"+strconv.Itoa(i)))
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(i), string(data))
	}
}

func TestATreeGoesInAndOut(t *testing.T) {
	sb := openLocal(t, sbx.Limit(sbx.Resources{DiskMiB: 16})).Sandbox()
	dir := makeTree(t)
	require.NoError(t, sb.CopyTo(t.Context(), dir, "tree"))
	require.NoError(t, sb.CopyTo(t.Context(), dir, "tree"), "again, over itself")
	back := filepath.Join(t.TempDir(), "new", "tree")
	require.NoError(t, sb.CopyFrom(t.Context(), "tree", back))
	require.NoError(t, sb.CopyFrom(t.Context(), "tree", back), "again, over itself")
	for _, args := range [][]string{{"diff", "-r", "--no-dereference", dir, back}} {
		output, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, string(output))
	}
	list := func(dir string) string {
		cmd := exec.Command("find", ".", "-type", "f", "-printf", "%p %m %s\n", "-o", "-mindepth", "1", "-printf", "%p %m %l\n")
		cmd.Dir = dir
		output, err := cmd.Output()
		require.NoError(t, err)
		lines := strings.Split(string(output), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	assert.Equal(t, list(dir), list(back))
	var stat syscall.Stat_t
	require.NoError(t, syscall.Stat(filepath.Join(back, "sparse"), &stat))
	assert.Less(t, stat.Blocks*512, int64(8<<20), "holes are holes")
}

func TestNothingLeavesATree(t *testing.T) {
	sb := openLocal(t).Sandbox()
	out := t.TempDir()
	outside := filepath.Join(out, "outside")
	require.NoError(t, os.WriteFile(outside, []byte("before"), 0o644))
	target := filepath.Join(out, "target")
	require.NoError(t, os.Mkdir(target, 0o755))
	// What was there before leads out, too.
	require.NoError(t, os.Symlink(out, filepath.Join(target, "folder")))
	require.NoError(t, os.Symlink(outside, filepath.Join(target, "file")))
	require.NoError(t, sb.Command("sh", "-c", `mkdir tree && cd tree && ln -s /etc/passwd absolute && ln -s ../outside up && mkdir deep &&
		ln -s ../x/../../outside deep/around && ln -s .. deep/fine && mkfifo pipe && mkdir folder && echo bad > folder/outside && echo bad > file && echo good > good`).Run())
	err := sb.CopyFrom(t.Context(), "tree", target)
	require.ErrorIs(t, err, fs.ErrExist, "a folder can't be where a link is")
	require.ErrorContains(t, err, "write "+filepath.Join(target, "folder")+": file already exists, and is of another kind")
	data, readErr := os.ReadFile(outside)
	require.NoError(t, readErr)
	assert.Equal(t, "before", string(data))

	require.NoError(t, os.Remove(filepath.Join(target, "folder")))
	err = sb.CopyFrom(t.Context(), "tree", target)
	require.ErrorIs(t, err, sbx.ErrRefused)
	for _, name := range []string{"absolute", "up", "deep/around", "pipe"} {
		assert.ErrorContains(t, err, "copy tree/"+name+": ")
		_, statErr := os.Lstat(filepath.Join(target, name))
		require.ErrorIs(t, statErr, fs.ErrNotExist)
	}
	data, readErr = os.ReadFile(outside)
	require.NoError(t, readErr)
	assert.Equal(t, "before", string(data), "the link is replaced, not followed")
	for name, content := range map[string]string{"good": "good\n", "file": "bad\n", "folder/outside": "bad\n"} {
		data, readErr := os.ReadFile(filepath.Join(target, name))
		require.NoError(t, readErr)
		assert.Equal(t, content, string(data))
	}
	link, readErr := os.Readlink(filepath.Join(target, "deep/fine"))
	require.NoError(t, readErr)
	assert.Equal(t, "..", link)

	require.NoError(t, os.Remove(filepath.Join(target, "deep/fine")))
	require.NoError(t, os.WriteFile(filepath.Join(target, "deep/fine"), nil, 0o644))
	err = sb.CopyFrom(t.Context(), "tree", target)
	require.ErrorContains(t, err, "write "+filepath.Join(target, "deep/fine")+": file already exists, and is of another kind")
}

// As root they may be this machine's /dev/null and /dev/stdout.
func TestNothingButFilesAndLinksIsReplaced(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Mkdir(t.Context(), "tree", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/pipe", []byte("new"), 0o644))
	dir := t.TempDir()
	pipe, link, file, toFile := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "file"), filepath.Join(dir, "to-file")
	require.NoError(t, syscall.Mkfifo(pipe, 0o644))
	require.NoError(t, os.Symlink("pipe", link))
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o644))
	require.NoError(t, os.Symlink("file", toFile))
	// What a process has open, as /dev/stdout may be, is no name of a file.
	opened, err := os.Open(file)
	require.NoError(t, err)
	defer opened.Close()
	magic, toMagic := fmt.Sprintf("/proc/self/fd/%d", opened.Fd()), filepath.Join(dir, "to-magic")
	require.NoError(t, os.Symlink(magic, toMagic))
	for target, source := range map[string]string{pipe: "tree/pipe", link: "tree/pipe", dir: "tree", magic: "tree/pipe", toMagic: "tree/pipe"} {
		err := sb.CopyFrom(t.Context(), source, target)
		require.ErrorIs(t, err, fs.ErrExist, target)
		require.ErrorContains(t, err, "is no place of a regular file; copy to another place")
	}
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "old", string(data))
	for _, folder := range []string{"/", "..", ".", dir, dir + "/."} {
		err := sb.CopyFrom(t.Context(), "tree/pipe", folder)
		require.ErrorIs(t, err, syscall.EISDIR)
		require.ErrorContains(t, err, "write "+filepath.Clean(folder)+": is a directory")
	}
	nowhere := filepath.Join(dir, "nowhere")
	require.NoError(t, os.Symlink("missing", nowhere))
	err = sb.CopyFrom(t.Context(), "tree/pipe", nowhere)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "write "+nowhere+": file does not exist: a link that leads nowhere; remove it")
	loop := filepath.Join(dir, "loop")
	require.NoError(t, os.Symlink("loop", loop))
	err = sb.CopyFrom(t.Context(), "tree/pipe", loop)
	require.ErrorIs(t, err, syscall.ELOOP)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, sb.CopyFrom(t.Context(), "tree/pipe", filepath.Join(dir, "new")+"/"), syscall.EISDIR)
	require.NoFileExists(t, filepath.Join(dir, "new"))
	require.ErrorIs(t, sb.CopyTo(t.Context(), file, "tree/new/"), syscall.EISDIR)
	_, err = sb.Stat(t.Context(), "tree/new")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, sb.CopyFrom(t.Context(), "tree/pipe", toFile))
	data, err = os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "new", string(data))
	for name, mode := range map[string]fs.FileMode{pipe: fs.ModeNamedPipe, link: fs.ModeSymlink, toFile: fs.ModeSymlink, nowhere: fs.ModeSymlink} {
		info, err := os.Lstat(name)
		require.NoError(t, err)
		assert.Equal(t, mode, info.Mode().Type(), name)
	}
}

// Small files are copied beside each other: it is the one that failed that is told, and not another that was given up for it.
func TestOneOfManySmallFilesFails(t *testing.T) {
	sb := openLocal(t).Sandbox()
	source, out := t.TempDir(), t.TempDir()
	for i := range 200 {
		require.NoError(t, os.WriteFile(filepath.Join(source, fmt.Sprintf("file-%03d", i)), fmt.Append(nil, i), 0o600))
	}
	require.NoError(t, os.Chmod(source, 0o500))
	t.Cleanup(func() { // or they can't be removed
		for _, folder := range []string{source, filepath.Join(out, "whole")} {
			assert.NoError(t, os.Chmod(folder, 0o700))
		}
	})
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	require.NoError(t, sb.CopyFrom(t.Context(), "tree", filepath.Join(out, "whole")))
	for i := range 200 {
		data, err := os.ReadFile(filepath.Join(out, "whole", fmt.Sprintf("file-%03d", i)))
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(i), string(data))
	}
	for _, folder := range []string{source, filepath.Join(out, "whole")} {
		info, err := os.Stat(folder)
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o500), info.Mode().Perm(), "set when all is in it")
	}

	require.NoError(t, sb.MkdirAll(t.Context(), "full/file-100", 0o755))
	err := sb.CopyTo(t.Context(), source, "full")
	require.ErrorIs(t, err, syscall.EISDIR)
	require.ErrorContains(t, err, "full/file-100")
	require.NotErrorIs(t, err, context.Canceled)
	require.NoError(t, os.MkdirAll(filepath.Join(out, "full", "file-100"), 0o755))
	err = sb.CopyFrom(t.Context(), "tree", filepath.Join(out, "full"))
	require.ErrorIs(t, err, syscall.EISDIR)
	require.ErrorContains(t, err, "write "+filepath.Join(out, "full", "file-100"))
	require.NotErrorIs(t, err, context.Canceled)
	entries, err := os.ReadDir(filepath.Join(out, "full"))
	require.NoError(t, err)
	for _, entry := range entries {
		assert.NotContains(t, entry.Name(), ".sbx-")
	}
}

// Whoever gives a copy up, files are on their way then.
func TestACopyOfATreeIsGivenUp(t *testing.T) {
	sb := openLocal(t).Sandbox()
	source, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	for i := range 4000 {
		require.NoError(t, os.WriteFile(filepath.Join(source, strconv.Itoa(i)), []byte("x"), 0o600))
	}
	require.NoError(t, sb.CopyTo(t.Context(), source, "tree"))
	stop := errors.New("the caller gave up")
	for name, c := range map[string]struct {
		copyIt func(ctx context.Context) error
		count  func() int
	}{
		"CopyTo": {func(ctx context.Context) error { return sb.CopyTo(ctx, source, "late") }, func() int {
			entries, _ := sb.ReadDir(t.Context(), "late")
			return len(entries)
		}},
		"CopyFrom": {func(ctx context.Context) error { return sb.CopyFrom(ctx, "tree", out) }, func() int {
			entries, _ := os.ReadDir(out)
			return len(entries)
		}},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error, 1)
		go func() { result <- c.copyIt(ctx) }()
		require.Eventually(t, func() bool { return c.count() > 20 }, time.Minute, time.Millisecond, name)
		cancel(stop)
		require.ErrorIs(t, <-result, stop, name)
		count := c.count()
		assert.Less(t, count, 4000, name)
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, count, c.count(), "%s: nothing goes on", name)
	}
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	for _, entry := range entries {
		assert.NotContains(t, entry.Name(), ".sbx-")
	}
}

// An empty folder has nothing in it whose copy would fail.
func TestAFolderDoesNotPassForAFile(t *testing.T) {
	sb := openLocal(t).Sandbox()
	source := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(source, "name"), 0o755))
	require.NoError(t, sb.Mkdir(t.Context(), "tree", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/name", []byte("old"), 0o600))
	require.ErrorContains(t, sb.CopyTo(t.Context(), source, "tree"), "tree/name: not a directory")
	info, err := sb.Stat(t.Context(), "tree/name")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	require.NoError(t, sb.Remove(t.Context(), "tree/name"))
	require.NoError(t, sb.Symlink(t.Context(), "nothing", "tree/name"))
	require.ErrorIs(t, sb.CopyTo(t.Context(), source, "tree"), fs.ErrExist)
}

func TestAFolderIsNotCopiedIntoItself(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, "below"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "below/file"), []byte("x"), 0o666))
	require.NoError(t, errors.Join(os.Chmod(folder, 0o777), os.Chmod(filepath.Join(folder, "below"), 0o777)))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(folder, link))
	below := filepath.Join(t.TempDir(), "below")
	require.NoError(t, os.Symlink(filepath.Join(folder, "below"), below))
	sb := openLocal(t).Sandbox(sbx.MountWritable(folder, "/data"))
	ctx, missing := t.Context(), filepath.Join(folder, "new")
	for _, err := range []error{
		sb.CopyTo(ctx, folder, "/data/new"), sb.CopyTo(ctx, link, "/data/new/newer"), sb.CopyTo(ctx, folder, "/data/"),
		sb.CopyTo(ctx, filepath.Join(folder, "below"), "/data/below/new"),
		sb.CopyFrom(ctx, "/data", missing), sb.CopyFrom(ctx, "/data/", filepath.Join(link, "new", "newer")), sb.CopyFrom(ctx, "/data", folder),
		sb.CopyFrom(ctx, "/data", filepath.Join(below, "new")),
	} {
		require.ErrorContains(t, err, "the copy would be in the folder that is copied, by a mount; copy to another place")
	}
	require.NoFileExists(t, missing)
	// Beside it is another matter.
	require.NoError(t, sb.CopyTo(ctx, filepath.Join(folder, "below"), "/data/new"))
	require.NoError(t, sb.CopyFrom(ctx, "/data/new", filepath.Join(folder, "newer")))
	require.NoError(t, sb.CopyFrom(ctx, "/data", t.TempDir()))
	data, err := os.ReadFile(filepath.Join(folder, "newer", "file"))
	require.NoError(t, err)
	assert.Equal(t, "x", string(data))
}

func TestNothingFromOutsideOfATreeGoesIn(t *testing.T) {
	sb := openLocal(t).Sandbox()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600))
	tree := filepath.Join(dir, "tree")
	require.NoError(t, os.Mkdir(tree, 0o755))
	require.NoError(t, os.Symlink(filepath.Join(dir, "secret"), filepath.Join(tree, "link")))
	require.NoError(t, os.Symlink(dir, filepath.Join(tree, "folder")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(tree, "pipe"), 0o644))
	err := sb.CopyTo(t.Context(), tree, "tree")
	require.ErrorIs(t, err, sbx.ErrRefused)
	require.ErrorContains(t, err, "copy "+filepath.Join(tree, "pipe")+": ")
	output, err := sb.Command("sh", "-c", "find / -xdev -name secret 2>/dev/null; cat tree/link tree/folder/secret; ls tree").Output()
	require.NoError(t, err)
	assert.Equal(t, "folder\nlink\n", string(output))
	require.ErrorIs(t, sb.CopyTo(t.Context(), filepath.Join(tree, "pipe"), "pipe"), sbx.ErrRefused)
	_, err = sb.ReadFile(t.Context(), "pipe")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOneFileGoesInAndOut(t *testing.T) {
	sb := openLocal(t).Sandbox()
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out+".in", []byte("content"), 0o750))
	require.NoError(t, sb.CopyTo(t.Context(), out+".in", "file"))
	require.NoError(t, sb.CopyFrom(t.Context(), "file", out))
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, "content", string(data))
	info, err := os.Stat(out)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o750), info.Mode())
	err = sb.CopyFrom(t.Context(), "nothing", out)
	require.ErrorIs(t, err, fs.ErrNotExist)
	err = sb.CopyFrom(t.Context(), "file", filepath.Join(out, "below-a-file"))
	require.ErrorContains(t, err, out)
	begin := time.Now()
	require.NoError(t, sb.Command("truncate", "-s", "1T", "long").Run())
	require.ErrorIs(t, sb.CopyFrom(t.Context(), "long", out+".long"), sbx.ErrFileTooLong)
	assert.Less(t, time.Since(begin), 30*time.Second, "found before 64 GiB have come")
	assert.NoFileExists(t, out+".long")
	folder := filepath.Join(t.TempDir(), "folder")
	require.NoError(t, os.Mkdir(folder, 0o755))
	err = sb.CopyFrom(t.Context(), "file", folder)
	require.ErrorIs(t, err, syscall.EISDIR, "a file does not take a folder's place")
	require.ErrorContains(t, err, folder)
	assert.NotContains(t, err.Error(), ".sbx-")
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, entries)
	err = sb.CopyTo(t.Context(), out+".missing", "file")
	require.ErrorContains(t, err, out+".missing")
}

// Stop removes from a folder of this machine what is being written there, and so does it after a context's end, which a moment is not enough for. Without
// isolation all folders are of this machine.
func TestStopLeavesNoHalfFile(t *testing.T) {
	t.Run("mounted", func(t *testing.T) {
		stopLeavesNoHalfFile(t, openLocal(t), func(folder string) (string, []sbx.SandboxOption) {
			return "/data", []sbx.SandboxOption{sbx.MountWritable(folder, "/data")}
		})
	})
	t.Run("not isolated", func(t *testing.T) {
		stopLeavesNoHalfFile(t, sbxtest.Open(t, sbx.Driver(process.New())), func(folder string) (string, []sbx.SandboxOption) { return folder, nil })
	})
}

// stopLeavesNoHalfFile has show say what a folder is called in a sandbox, and with which options.
func stopLeavesNoHalfFile(t *testing.T, session *sbx.Session, show func(folder string) (string, []sbx.SandboxOption)) {
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o777))
	source := filepath.Join(t.TempDir(), "large")
	require.NoError(t, os.WriteFile(source, bytes.Repeat([]byte("0123456789abcdef"), 16<<20), 0o644))
	shown, opts := show(folder)
	half := func() bool {
		names, err := filepath.Glob(filepath.Join(folder, ".sbx-*"))
		require.NoError(t, err)
		return len(names) > 0
	}
	for _, given := range []bool{false, true} {
		for range 4 {
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			sb := session.Sandbox(opts...)
			require.NoError(t, sb.Start(t.Context()))
			copied := make(chan error, 1)
			go func() { copied <- sb.CopyTo(ctx, source, path.Join(shown, "copy")) }()
			require.Eventually(t, half, long, time.Millisecond, "the control: it is there while it is written")
			if given {
				giveUp()
			}
			require.NoError(t, sb.Stop(t.Context()))
			assert.False(t, half())
			if err := <-copied; given {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.ErrorIs(t, err, sbx.ErrNotRunning)
			}
			assert.NoFileExists(t, filepath.Join(folder, "copy"))
		}
	}
}
