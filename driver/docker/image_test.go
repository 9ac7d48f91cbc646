//go:build !sbxworker

package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
)

var discard = slog.New(slog.DiscardHandler)

func TestImagesThatAreMissing(t *testing.T) {
	image, _ := testImages(t)
	const missing = "sandboxfn.invalid/missing:1"
	for _, pull := range []string{"missing", "always", "never"} {
		for _, opts := range []Options{{Image: missing, Pull: pull}, {Image: "Not A Name", Pull: pull}} {
			_, err := New(&opts).Open(t.Context(), driver.SessionSpec{
				ID: "missing", Worker: func(context.Context, driver.Platform) (string, error) { return "/proc/self/exe", nil }, Logger: discard,
			})
			wrong, ok := errors.AsType[*driver.ImageError](err)
			require.True(t, ok, "%s: %v", pull, err)
			assert.Equal(t, opts.Image, wrong.Image)
			assert.NotEmpty(t, wrong.Remedies)
		}
	}
	session := openTest(t, New(&Options{Image: image, Pull: "never"}), "never")
	_, err := session.Create(t.Context(), driver.Spec{ID: "one", Image: missing})
	require.ErrorContains(t, err, "the engine does not have it")
	run(t, session, "two")
}

// An image that declares a volume would have the engine make one, of any size.
func TestVolumesOfImages(t *testing.T) {
	image, _ := testImages(t)
	api := testEngine(t)
	helper := leave(t, image, nil)
	const name = "local/sbx-test-volumes:1"
	_, err := api.ContainerCommit(t.Context(), helper, client.ContainerCommitOptions{
		Reference: name, Changes: []string{"VOLUME /data /tmp"}, Config: &container.Config{}, // Podman wants one
	})
	require.NoError(t, err)
	defer func() {
		_, err := api.ImageRemove(context.Background(), name, client.ImageRemoveOptions{})
		assert.NoError(t, err)
	}()
	session := openTest(t, New(&Options{Image: image}), "volumes")
	made, err := session.Create(t.Context(), driver.Spec{ID: "one", Image: name})
	require.NoError(t, err)
	is, err := api.ContainerInspect(t.Context(), made.(*sandbox).container, client.ContainerInspectOptions{})
	require.NoError(t, err)
	for _, m := range is.Container.Mounts {
		assert.False(t, m.RW, "%s is a %s", m.Destination, m.Type)
	}
	assert.Contains(t, is.Container.HostConfig.Tmpfs["/data"], "size=")
	require.NoError(t, made.Stop(t.Context()))
}

func TestOptions(t *testing.T) {
	for _, opts := range []Options{{Pull: "sometimes"}, {User: "root"}, {User: "1:2:3"}, {User: "1,exec"}, {ScratchMiB: -1}, {Lifetime: time.Millisecond}, {Lifetime: -time.Hour}} {
		_, err := New(&opts).Open(t.Context(), driver.SessionSpec{ID: "options", Logger: discard})
		assert.ErrorContains(t, err, "docker: Options.", "%+v", opts)
	}
}

func TestURL(t *testing.T) {
	for text, want := range map[string]Options{
		"docker":                             {},
		"docker:":                            {},
		"docker://host:2376":                 {Host: "tcp://host:2376"},
		"docker://host:2376/?image=a":        {Host: "tcp://host:2376", Image: "a"},
		"docker:///run/x.sock?network=n":     {Host: "unix:///run/x.sock", Network: "n"},
		"docker:?image=debian:12&pull=never": {Image: "debian:12", Pull: "never"},
		"docker:?runtime=runsc&user=1:2&scratch-mib=9&lifetime=1h30m": {Runtime: "runsc", User: "1:2", ScratchMiB: 9, Lifetime: 90 * time.Minute},
	} {
		got, err := driver.FromURL(text)
		require.NoError(t, err, text)
		assert.Equal(t, New(&want), got, text)
	}
	for _, text := range []string{
		"docker:?imag=a", "docker:?scratch-mib=x", "docker:?lifetime=1", "docker:?pull=x", "docker:?user=me", "docker://host/path", "docker:host", "docker://me:hunter2@host:1",
	} {
		_, err := driver.FromURL(text)
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func TestNoEngine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	for _, host := range []string{"unix://" + t.TempDir() + "/none.sock", "tcp://" + address, "ssh://me:hunter2@host", "nonsense", "tcp://me:hunter2@" + address} {
		_, err := New(&Options{Host: host}).Open(t.Context(), driver.SessionSpec{ID: "none", Logger: discard})
		unavailable, ok := errors.AsType[*driver.UnavailableError](err)
		require.True(t, ok, "%v", err)
		assert.NotEmpty(t, unavailable.Remedies)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = New(nil).Open(ctx, driver.SessionSpec{ID: "none", Logger: discard})
	require.ErrorIs(t, err, context.Canceled)
}

func TestFindHost(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://host:1")
	assert.Empty(t, findHost(""), "the client knows it")
	assert.Equal(t, "tcp://other:1", findHost("tcp://other:1"))
	t.Setenv("DOCKER_HOST", "")
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		return
	}
	folder := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", folder)
	require.NoError(t, os.Mkdir(filepath.Join(folder, "podman"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "podman/podman.sock"), nil, 0o600))
	assert.Equal(t, "unix://"+folder+"/podman/podman.sock", findHost(""))
}

func TestEngineThatCant(t *testing.T) {
	e := &engine{info: system.Info{OSType: "windows"}}
	require.ErrorContains(t, e.check(Options{}), "containers of windows")
	e.info.OSType = "linux"
	require.NoError(t, e.check(Options{}))
	require.ErrorContains(t, e.check(Options{Runtime: "runsc"}), `no runtime "runsc"`)
	e.info.Runtimes = map[string]system.RuntimeWithStatus{"runsc": {}}
	require.NoError(t, e.check(Options{Runtime: "runsc"}))

	report := e.report(Options{Runtime: "runsc", Network: "bridge"})
	assert.Equal(t, driver.OwnKernel, report.Isolation)
	for _, name := range []string{driver.LimitCPUs, driver.LimitMemory, driver.LimitProcesses, "network", "system calls"} {
		c := report.Capability(name)
		assert.False(t, c.Held, name)
		assert.NotEmpty(t, c.Remedies, name)
	}
	// Podman refuses options that Docker takes.
	assert.True(t, report.Capability(driver.LimitInodes).Held)
	e.podman = true
	report = e.report(Options{})
	assert.False(t, report.Capability(driver.LimitInodes).Held)
	s := &session{driver: New(nil).(dockerDriver), engine: e, report: report}
	for folder, options := range s.folders(s.limits(driver.Spec{}), nil, []string{"/data"}) {
		assert.NotContains(t, options, "nr_inodes", folder)
		assert.NotContains(t, options, "uid=", folder)
		assert.Contains(t, options, "size=", folder)
	}
	for arch, want := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "s390x": "s390x"} {
		e.info.Architecture = arch
		assert.Equal(t, driver.Platform{OS: "linux", Arch: want, Alone: true}, e.platform())
	}
}

func TestMountOfTheEnginesSocket(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	run, data := filepath.Join(folder, "run"), filepath.Join(folder, "data")
	require.NoError(t, os.Mkdir(run, 0o700))
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(run, "docker.sock"), nil, 0o600))
	require.NoError(t, os.Symlink(run, filepath.Join(folder, "link")))
	api, err := client.New(client.WithHost("unix://" + filepath.Join(folder, "link", "docker.sock")))
	require.NoError(t, err)
	s := &session{engine: &engine{Client: api}}
	for _, source := range []string{folder, run, filepath.Join(folder, "link"), filepath.Join(run, "docker.sock")} {
		_, err := s.mounts([]driver.Mount{{Source: source, Target: "/data"}})
		_, ok := errors.AsType[*driver.MountError](err)
		assert.True(t, ok, "%s: %v", source, err)
	}
	mounts, err := s.mounts([]driver.Mount{{Source: data, Target: "/data"}})
	require.NoError(t, err)
	assert.Equal(t, []driver.Mount{{Source: data, Target: "/data"}}, mounts)
}

func TestAttached(t *testing.T) {
	frame := func(stream byte, text string) string {
		return string([]byte{stream, 0, 0, 0, 0, 0, 0, byte(len(text))}) + text
	}
	ours, theirs := net.Pipe()
	a := &attached{conn: ours, from: bytes.NewBufferString(frame(1, "one ") + frame(2, "odd\n") + frame(1, "") + frame(1, "two") + frame(2, "end\n"))}
	got, err := io.ReadAll(a)
	require.NoError(t, err)
	assert.Equal(t, "one two", string(got))
	assert.Equal(t, `; its first process said: "odd\nend"`, a.said())
	require.NoError(t, a.Close())
	_, err = theirs.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	a = &attached{from: io.MultiReader(bytes.NewReader([]byte{2, 0, 0, 0, 0, 16, 0, 0}), bytes.NewReader(make([]byte, 1<<20)))}
	_, err = io.ReadAll(a)
	require.NoError(t, err)
	assert.Len(t, a.stderr, keptStderr)
	a = &attached{from: bytes.NewReader([]byte{1, 0, 0, 0, 0, 0, 0, 9, 'x'})}
	got, _ = io.ReadAll(a)
	assert.Equal(t, "x", string(got), "what is cut off ends")
	assert.Empty(t, a.said())
}

func TestMountError(t *testing.T) {
	m := driver.Mount{Source: "/somewhere", Target: "/data"}
	err := mountError(errors.New(`invalid mount config for type "bind": bind source path does not exist: /somewhere`), []driver.Mount{m})
	wrong, ok := errors.AsType[*driver.MountError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, m, wrong.Mount)
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, text := range []string{ // of Docker, and of Podman
		`invalid mount config for type "bind": stat /somewhere: permission denied`,
		"making volume mountpoint for volume /somewhere: mkdir /somewhere: permission denied",
	} {
		err := mountError(errors.New(text), []driver.Mount{{Source: "/some", Target: "/other"}, m})
		wrong, ok := errors.AsType[*driver.MountError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, m, wrong.Mount)
		require.ErrorIs(t, err, os.ErrPermission)
	}
	other := errors.New("another error")
	assert.Equal(t, other, mountError(other, []driver.Mount{m}))
	assert.NoError(t, mountError(nil, []driver.Mount{m}))
}
