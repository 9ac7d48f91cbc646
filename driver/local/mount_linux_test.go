package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

// mountAttempts are what a worker tries with /data/read, which it may read, and /data/write, which it may change, both from the folder
// PARENT of the host, in which there is a file "secret". An attempt that returns nil has succeeded.
var mountAttempts = []struct {
	name string
	do   func(parent string) error
}{
	{"write to a file", func(string) error { return os.WriteFile("/data/read/file", []byte("x"), 0) }},
	{"truncate a file", func(string) error { return os.Truncate("/data/read/file", 0) }},
	{"append to a file by /proc", func(string) error {
		fd, err := unix.Open("/data/read/file", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		return os.WriteFile(fmt.Sprintf("/proc/self/fd/%d", fd), []byte("x"), 0)
	}},
	{"make a file", func(string) error { return os.WriteFile("/data/read/new", nil, 0o644) }},
	{"make a folder", func(string) error { return os.Mkdir("/data/read/folder", 0o755) }},
	{"make a link", func(string) error { return os.Symlink("/", "/data/read/new-link") }},
	{"remove a file", func(string) error { return os.Remove("/data/read/file") }},
	{"rename a file", func(string) error { return os.Rename("/data/read/file", "/data/read/renamed") }},
	{"change a mode", func(string) error { return os.Chmod("/data/read/file", 0o600) }},
	{"change a time", func(string) error { return unix.Utimes("/data/read/file", make([]unix.Timeval, 2)) }},
	{"set an attribute", func(string) error { return unix.Setxattr("/data/read/file", "user.x", []byte("x"), 0) }},
	{"link a file to where it can be written", func(string) error { return os.Link("/data/read/file", "/data/write/linked") }},
	{"link a file to the own folder", func(string) error { return os.Link("/data/read/file", "/work/linked") }},
	{"move a file to where it can be written", func(string) error { return os.Rename("/data/read/file", "/data/write/moved") }},
	{"write below what is mounted in a writable folder", func(string) error { return os.WriteFile("/data/write/below/file", []byte("x"), 0) }},
	{"follow a link out", func(string) error { return exists("/data/read/absolute") }},
	{"follow a relative link out", func(string) error { return exists("/data/read/relative") }},
	{"follow an own link out", func(parent string) error {
		link := "/data/write/own-link"
		return errors.Join(os.Symlink(parent+"/secret", link), exists(link), os.Remove(link))
	}},
	{"go up", func(parent string) error { return exists("/data/write/../secret") }},
	{"go up from an open folder", func(parent string) error {
		fd, err := unix.Open("/data/write", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		for _, path := range []string{"../secret", "../../.." + parent + "/secret"} {
			if _, err = unix.Openat(fd, path, unix.O_RDONLY, 0); err == nil {
				return nil
			}
		}
		return err
	}},
	{"find the host's path", func(parent string) error { return exists(parent + "/secret") }},
	{"see the mounts of other sandboxes", func(string) error { return exists("/mounts") }},
	{"move a mount", func(string) error { return os.Rename("/data/write", "/data/elsewhere") }},
	{"remove a mount's place", func(string) error { return os.Remove("/data/write") }},
	{"make something beside a mount", func(string) error { return os.Mkdir("/data/beside", 0o755) }},
	{"make a mount writable", func(string) error { return unix.Mount("", "/data/read", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
	{"unmount", func(string) error { return unix.Unmount("/data/read", unix.MNT_DETACH) }},
	{"honour setuid", func(string) error { return lacks(unix.ST_NOSUID) }},
	{"honour devices", func(string) error { return lacks(unix.ST_NODEV) }},
	{"use a device", func(string) error { return exists("/data/read/device") }},
	{"make a device", func(string) error { return unix.Mknod("/data/write/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) }},
	{"make a file setuid", func(string) error {
		return errors.Join(os.WriteFile("/data/write/tool", nil, 0o755), unix.Chmod("/data/write/tool", 0o4755))
	}},
	{"make a setuid file", func(string) error {
		fd, err := unix.Open("/data/write/tool2", unix.O_CREAT|unix.O_WRONLY, 0o4755)
		_ = unix.Close(fd)
		return err
	}},
	{"give a file away", func(string) error { return os.Chown("/data/write/owned", 0, 0) }},
}

// exists opens a path.
func exists(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

// lacks looks for a mount that lacks a flag.
func lacks(flag int64) error {
	for _, path := range []string{"/data/read", "/data/write", "/data/write/below"} {
		var status unix.Statfs_t
		if err := unix.Statfs(path, &status); err != nil {
			continue // not made in this test
		}
		if status.Flags&flag == 0 {
			return nil
		}
	}
	return errors.New("all have it")
}

// workerMounts makes the attempts, and then what must work.
func workerMounts() int {
	parent := os.Getenv("PARENT")
	fmt.Println("write", errors.Join(os.WriteFile("/data/write/own", []byte("own"), 0o600), os.WriteFile("/data/write/owned", nil, 0o600)))
	for _, attempt := range mountAttempts {
		if err := attempt.do(parent); err == nil {
			fmt.Println("open:", attempt.name)
		} else {
			fmt.Fprintf(os.Stderr, "held: %s: %v\n", attempt.name, err)
		}
	}
	text, err := os.ReadFile("/data/read/file")
	fmt.Println("read", string(text), err)
	text, err = os.ReadFile("/data/read/inside")
	fmt.Println("read by a link inside", string(text), err)
	fmt.Println("rename", errors.Join(os.Mkdir("/data/write/a", 0o777), os.Rename("/data/write/own", "/data/write/a/own"), os.Chdir("/data/write/a")))
	ready()
	// Now the host moves this folder to where the secret is.
	_, _ = os.NewFile(driver.ConnFD, "conn").Read(make([]byte, 1))
	for _, path := range []string{"../secret", "../../secret", "../write"} {
		if exists(path) == nil {
			fmt.Println("open: leave a folder that was moved:", path)
		}
	}
	text, err = os.ReadFile("own")
	fmt.Println("read where it was moved", string(text), err)
	return 0
}

const belowVariable = "TEST_BELOW" // set in a process that may mount

// again runs the test in a process with mounts of its own.
func again(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), belowVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("%s", out)
}

// Through mounts a sandbox sees and changes what it was given, and nothing else.
func TestMountsHold(t *testing.T) {
	if os.Getenv(belowVariable) == "" && os.Geteuid() == 0 {
		again(t) // for mounts below a source
	}
	parent := t.TempDir()
	for path := parent; path != filepath.Clean(os.TempDir()); path = filepath.Dir(path) {
		require.NoError(t, os.Chmod(path, 0o755))
	}
	read, write := filepath.Join(parent, "read"), filepath.Join(parent, "write")
	require.NoError(t, errors.Join(os.Mkdir(read, 0o755), os.Mkdir(write, 0o755), os.Chmod(read, 0o777), os.Chmod(write, 0o777)))
	for path, content := range map[string]string{parent + "/secret": "secret", read + "/file": "file"} {
		require.NoError(t, errors.Join(os.WriteFile(path, []byte(content), 0o666), os.Chmod(path, 0o666)))
	}
	require.NoError(t, errors.Join(os.Symlink(parent+"/secret", read+"/absolute"), os.Symlink("../secret", read+"/relative"), os.Symlink("file", read+"/inside")))
	for _, link := range []string{"absolute", "relative"} {
		content, err := os.ReadFile(filepath.Join(read, link))
		require.NoError(t, err)
		require.Equal(t, "secret", string(content), "the control: on the host the link leads there")
	}
	if os.Geteuid() == 0 {
		if err := unix.Mknod(read+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
			require.NoError(t, os.Chmod(read+"/device", 0o666))
		}
	}
	if os.Getenv(belowVariable) != "" {
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		require.NoError(t, os.Mkdir(write+"/below", 0o777))
		require.NoError(t, unix.Mount("tmpfs", write+"/below", "tmpfs", 0, "mode=0777"))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(write+"/below", 0)) })
		require.NoError(t, errors.Join(os.WriteFile(write+"/below/file", []byte("file"), 0o666), os.Chmod(write+"/below/file", 0o666)))
	}

	session := open(t)
	sandbox, err := session.Create(testContext(t), driver.Spec{
		ID: "one", Env: []string{testWorker + "=mounts", "PARENT=" + parent},
		Mounts: []driver.Mount{{Source: read, Target: "/data/read"}, {Source: write, Target: "/data/write", Writable: true}},
	})
	require.NoError(t, err)
	p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	require.NoError(t, err)
	t.Cleanup(func() { closeStreams(p) })
	line, err := bufio.NewReader(p.Handshake()).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	require.NoError(t, os.Rename(write+"/a", parent+"/a"))
	require.NoError(t, p.Conn().Close())
	stdout, stderr, exit := output(t, p)
	assert.Equal(t, driver.Exit{}, exit)
	assert.Equal(t, "write <nil>\nread file <nil>\nread by a link inside file <nil>\nrename <nil>\nread where it was moved own <nil>\n", stdout)
	assert.Equal(t, len(mountAttempts), strings.Count(stderr, "held: "), stderr)
	t.Log(stderr)

	for path, want := range map[string]string{"secret": "secret", "read/file": "file", "a/own": "own"} {
		content, err := os.ReadFile(filepath.Join(parent, path))
		require.NoError(t, err)
		assert.Equal(t, want, string(content), path)
	}
	err = filepath.WalkDir(write, func(path string, entry os.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		assert.Zero(t, info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice), path)
		return nil
	})
	require.NoError(t, err)
}

// What would show the machine itself is refused, however it is named.
func TestMountsThatAreRefused(t *testing.T) {
	folder := t.TempDir()
	for link, to := range map[string]string{"root": "/", "proc": "/proc/sys", "sys": "/sys/kernel", "dev": "/dev", "null": "/dev/null", "loop": "loop"} {
		require.NoError(t, os.Symlink(to, filepath.Join(folder, link)))
	}
	require.NoError(t, unix.Mkfifo(folder+"/pipe", 0o600))
	wanted := map[string]string{
		"/": "machine itself", "/proc/..": "machine itself", "/proc/self/root": "machine itself", folder + "/root": "machine itself",
		folder + "/proc": "machine itself", folder + "/sys": "machine itself", folder + "/dev": "machine itself", folder + "/null": "neither a folder",
		folder + "/pipe": "neither a folder", folder + "/nowhere": "make it first", folder + "/loop": "that is there", "/etc/passwd/x": "that is there", "/" + strings.Repeat("x", 256): "that is there",
		folder + "/root/proc": "machine itself",
	}
	session := open(t)
	for source, want := range wanted {
		_, err := session.Create(testContext(t), driver.Spec{ID: "one", Mounts: []driver.Mount{{Source: source, Target: "/data"}}})
		var refused *driver.MountError
		require.ErrorAs(t, err, &refused, source)
		assert.ErrorContains(t, err, want, source)
	}
	if os.Geteuid() == 0 {
		// A place that shows more than its path says, in a process with mounts of its own.
		if os.Getenv(belowVariable) == "" {
			again(t)
		} else {
			require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			inner := filepath.Join(t.TempDir(), "a b", "inner") // the kernel's list of mounts has \040 for the space
			require.NoError(t, os.MkdirAll(inner, 0o755))
			require.NoError(t, unix.Mount("proc", inner, "proc", 0, ""))
			t.Cleanup(func() { assert.NoError(t, unix.Unmount(inner, 0)) })
			for _, source := range []string{filepath.Dir(inner), inner, inner + "/sys/kernel", inner + "/version"} {
				_, err := session.Create(testContext(t), driver.Spec{ID: "one", Mounts: []driver.Mount{{Source: source, Target: "/data"}}})
				var refused *driver.MountError
				require.ErrorAs(t, err, &refused, source)
				assert.ErrorContains(t, err, "file system of type proc", source)
			}
		}
	}
	// A target that only the sandbox's root can say something of.
	sandbox, err := session.Create(testContext(t), driver.Spec{ID: "two", Mounts: []driver.Mount{{Source: folder, Target: "/etc/passwd/x"}}})
	require.NoError(t, err)
	_, err = sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	var failed *local.SetupError
	require.ErrorAs(t, err, &failed)
	assert.ErrorContains(t, err, "/etc/passwd, which is no folder")
	// And all of that has harmed nothing.
	_, p := start(t, session, "three", "exit")
	_, _, exit := output(t, p)
	assert.Equal(t, driver.Exit{}, exit)
}

// A name that is not UTF-8 is mounted, and not the one that it looks like.
func TestMountOfAnyName(t *testing.T) {
	source := t.TempDir() + "/\xff"
	require.NoError(t, errors.Join(os.Mkdir(source, 0o755), os.WriteFile(source+"/this", nil, 0o644), os.Mkdir(filepath.Dir(source)+"/\uFFFD", 0o755)))
	session := open(t)
	sandbox, err := session.Create(testContext(t), driver.Spec{
		ID: "one", Env: []string{testWorker + "=list", "FOLDER=/data"}, Mounts: []driver.Mount{{Source: source, Target: "/data"}},
	})
	require.NoError(t, err)
	p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	require.NoError(t, err)
	defer closeStreams(p)
	stdout, _, _ := output(t, p)
	assert.Equal(t, "[this]\n", stdout)
}

// A source that is replaced is another one.
func TestMountsOfReplacedSources(t *testing.T) {
	session := open(t)
	source := filepath.Join(t.TempDir(), "source")
	for i := range 3 {
		require.NoError(t, errors.Join(os.Mkdir(source, 0o755), os.WriteFile(fmt.Sprint(source, "/", i), nil, 0o644)))
		for range 2 {
			sandbox, err := session.Create(testContext(t), driver.Spec{
				ID: "one", Env: []string{testWorker + "=list", "FOLDER=/data"}, Mounts: []driver.Mount{{Source: source, Target: "/data"}},
			})
			require.NoError(t, err)
			p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
			require.NoError(t, err)
			stdout, _, _ := output(t, p)
			closeStreams(p)
			assert.Equal(t, fmt.Sprintln([]string{fmt.Sprint(i)}), stdout)
			require.NoError(t, sandbox.Stop(testContext(t)))
		}
		require.NoError(t, os.RemoveAll(source))
	}
}

// workerList lists a folder.
func workerList() int {
	entries, err := os.ReadDir(os.Getenv("FOLDER"))
	if err != nil {
		fmt.Println(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	fmt.Println(names)
	return 0
}

// Creates that are cut short, wherever they are, leave nothing, and the session makes other sandboxes.
func TestMountsCutShort(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other programs use the common one
	sources := t.TempDir()
	before := count(t)
	session, err := local.New(nil).Open(testContext(t), spec(t))
	require.NoError(t, err)
	var group sync.WaitGroup
	failed := 0
	for i := range 20 {
		source := filepath.Join(sources, fmt.Sprint(i))
		require.NoError(t, os.Mkdir(source, 0o755))
		ctx, cancel := context.WithTimeout(testContext(t), time.Duration(i)*2*time.Millisecond)
		sandbox, err := session.Create(ctx, driver.Spec{ID: fmt.Sprint(i), Mounts: []driver.Mount{{Source: source, Target: "/data"}}})
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			failed++
		} else {
			group.Go(func() { assert.NoError(t, sandbox.Stop(testContext(t))) })
		}
		cancel()
	}
	group.Wait()
	t.Logf("%d of 20 were cut short", failed)
	sandbox, err := session.Create(testContext(t), driver.Spec{
		ID: "last", Env: []string{testWorker + "=list", "FOLDER=/data"}, Mounts: []driver.Mount{{Source: sources, Target: "/data"}},
	})
	require.NoError(t, err)
	p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	require.NoError(t, err)
	stdout, _, _ := output(t, p)
	closeStreams(p)
	assert.Contains(t, stdout, "19")
	require.NoError(t, session.Close(testContext(t)))
	assert.Equal(t, before, count(t), "after Close")
	_, err = session.Create(testContext(t), driver.Spec{ID: "closed", Mounts: []driver.Mount{{Source: sources, Target: "/data"}}})
	assert.ErrorIs(t, err, driver.ErrStopped)
}
