package sbx_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mounting is a driver that says which mounts it was asked for.
type mounting struct {
	driver.Driver
	mu    sync.Mutex
	asked [][]driver.Mount
}

type mountingSession struct {
	driver.Session
	driver *mounting
}

func (d *mounting) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := d.Driver.Open(ctx, spec)
	return mountingSession{session, d}, err
}

func (s mountingSession) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	s.driver.mu.Lock()
	s.driver.asked = append(s.driver.asked, spec.Mounts)
	s.driver.mu.Unlock()
	spec.Mounts = nil
	return s.Session.Create(ctx, spec)
}

// Mounts merge by target, and each set of mounts has sandboxes of its own.
func TestMountsMerge(t *testing.T) {
	d := &mounting{Driver: inprocess.New(nil)}
	session := sbxtest.Open(t, sbx.Driver(d), sbx.MaxSandboxes(9), sbx.Mount("/a", "/data/a"), sbx.MountWritable("/b/", "/data/b"))
	a, b := driver.Mount{Source: "/a", Target: "/data/a"}, driver.Mount{Source: "/b", Target: "/data/b", Writable: true}
	for _, test := range []struct {
		opts []sbx.FunctionOption
		want []driver.Mount
	}{
		{nil, []driver.Mount{a, b}},
		{[]sbx.FunctionOption{sbx.Mount("/c", "/c")}, []driver.Mount{{Source: "/c", Target: "/c"}, a, b}},
		{[]sbx.FunctionOption{sbx.Mount("/b", "/data/b")}, []driver.Mount{a, {Source: "/b", Target: "/data/b"}}},
		{[]sbx.FunctionOption{sbx.Mount("/x", "/data/a"), sbx.MountWritable("/w\n", "/data/a")}, []driver.Mount{{Source: "/w\n", Target: "/data/a", Writable: true}, b}},
		{[]sbx.FunctionOption{sbx.Tags("/data/b", "w/b")}, []driver.Mount{a, b}}, // which is no mount
	} {
		for range 2 { // the second finds the first one's sandbox
			_, err := session.Function(Double, test.opts...).Call(t.Context(), 1)
			require.NoError(t, err)
		}
		assert.Equal(t, test.want, d.asked[len(d.asked)-1])
	}
	assert.Len(t, d.asked, 5)
}

func TestMountsThatMakeNoSense(t *testing.T) {
	for _, test := range []struct {
		source, target, want string
	}{
		{"", "/data", "absolute"},
		{"data", "/data", "filepath.Abs"},
		{"/", "/data", "machine itself"},
		{"/..", "/data", "machine itself"},
		{"/proc", "/data", "machine itself"},
		{"/sys/fs/cgroup", "/data", "machine itself"},
		{"/a/../dev/shm", "/data", "machine itself"},
		{"/a", "", "clean absolute path"},
		{"/a", "data", "clean absolute path"},
		{"/a", "/data/", "clean absolute path"},
		{"/a", "/data/../etc", "clean absolute path"},
		{"/a", "/", "belongs to the sandbox"},
		{"/a", "/work", "belongs to the sandbox"},
		{"/a", "/tmp", "belongs to the sandbox"},
		{"/a", "/usr/local/lib/x", "belongs to the sandbox"},
		{"/a", "/lib64", "belongs to the sandbox"},
		{"/a", "/dev/x", "belongs to the sandbox"},
		{"/a", "/.sbx", "belongs to the sandbox"},
		{"/a", "/kept", "not apart"},
		{"/a", "/taken/below/more", "not apart"},
		{"/a\x00", "/data", "NUL"},
		{"/a", "/data/\xff", "not UTF-8"},
		{"/a", "/" + strings.Repeat("x", 256), "at most 255"},
		{"/a", strings.Repeat("/x", 513), "at most 1024"},
	} {
		for name, option := range map[string]func(source, target string) sbx.SandboxOption{"Mount": sbx.Mount, "MountWritable": sbx.MountWritable} {
			_, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.Mount("/a", "/kept/below"), sbx.Mount("/a", "/taken/below"), option(test.source, test.target))
			var wrong *sbx.OptionError
			require.ErrorAs(t, err, &wrong, "%q at %q", test.source, test.target)
			assert.Equal(t, name, wrong.Option)
			assert.Contains(t, wrong.Reason, test.want, "%q at %q", test.source, test.target)
		}
	}
	for _, target := range []string{"/library", "/usrlocal", "/work/a", "/tmp/a", "/etc/passwd", "/home/a b", "/working", "/" + strings.Repeat("x", 255), strings.Repeat("/x", 512)} {
		assert.NoError(t, driver.Mount{Source: "/a", Target: target}.Check(), target)
	}
}

func TestMountsOfOtherDrivers(t *testing.T) {
	session := sbxtest.Open(t)
	_, err := session.Function(Double, sbx.Mount("/a", "/data")).Call(t.Context(), 1)
	var refused *driver.MountError
	require.ErrorAs(t, err, &refused)
	assert.Contains(t, err.Error(), "the inprocess driver can't mount /a at /data: its workers run in the program itself, and see its files where they are; "+
		"to go on, use the local driver (the default) on Linux, or leave the mount out")
}

func TestMount(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the local driver is for Linux")
	}
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)))
	read := session.Function(ReadFile, sbx.Mount("/etc/passwd", "/data/users"))
	want, err := os.ReadFile("/etc/passwd")
	require.NoError(t, err)
	got, err := read.Call(t.Context(), "/data/users")
	require.NoError(t, err)
	assert.True(t, slices.Equal(want, got), "%s", strings.TrimSpace(string(got)))

	_, err = session.Function(ReadFile, sbx.Mount(filepath.Join(t.TempDir(), "nowhere"), "/data")).Call(t.Context(), "/data")
	var refused *driver.MountError
	require.ErrorAs(t, err, &refused)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "make it first")
}

// That a sandbox can't be started is not taken for what was asked about a file or a program in it, which is named.
func TestAFileOfASandboxThatDoesNotStart(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	source := t.TempDir()
	for _, name := range []string{"notes.txt", "/no/such/file"} {
		sb := session.Sandbox(sbx.Secret("KEY", sbx.SecretFile("/no/such/file")))
		require.ErrorIs(t, sb.Start(t.Context()), fs.ErrNotExist)
		_, readErr := sb.ReadFile(t.Context(), name)
		_, openErr := sb.Open(t.Context(), name)
		_, listErr := sb.ReadDir(t.Context(), name)
		for op, err := range map[string]error{
			"read " + name: readErr, "open " + name: openErr, "readdir " + name: listErr, "remove " + name: sb.Remove(t.Context(), name),
			"copy " + name: sb.CopyTo(t.Context(), source, name), `run "/bin/true"`: sb.Command("/bin/true").Run(),
		} {
			assert.NotErrorIs(t, err, fs.ErrNotExist)
			assert.NotErrorIs(t, err, syscall.ENOENT)
			assert.NotErrorAs(t, err, new(syscall.Errno))
			require.ErrorAs(t, err, new(*sbx.StartError))
			require.ErrorAs(t, err, new(*sbx.SecretError))
			assert.ErrorContains(t, err, "sbx: sandbox "+sb.ID()+": "+op+`: no sandbox could be started: secret "KEY" from the file "/no/such/file": open `)
			if path := new(fs.PathError); errors.As(err, &path) {
				assert.Equal(t, name, path.Path)
			}
		}
		require.NoError(t, sb.Close())
	}
}

func TestAFileThatIsMountedByItself(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the local driver is for Linux")
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o666))
	require.NoError(t, os.Chmod(file, 0o666))
	sb := sbxtest.Open(t, sbx.Driver(local.New(nil))).Sandbox(
		sbx.MountWritable(file, "/data/file"), sbx.MountWritable(file, "/work/file"), sbx.Mount(file, "/shown/file"))
	for name, want := range map[string]error{"/data/file": syscall.EROFS, "/work/file": syscall.EBUSY} {
		err := sb.WriteFile(t.Context(), name, []byte("new"), 0o644)
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, name+": ")
		require.ErrorContains(t, err, "written to: by Sandbox.OpenFile")
		f, err := sb.OpenFile(t.Context(), name, os.O_WRONLY|os.O_TRUNC, 0)
		require.NoError(t, err)
		_, err = f.Write([]byte(name))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, name, string(data))
	}
	err := sb.WriteFile(t.Context(), "/shown/file", []byte("new"), 0o644)
	require.ErrorIs(t, err, syscall.EROFS)
	assert.NotContains(t, err.Error(), "written to")
}
