//go:build !sbxworker

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
)

func TestIsGone(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("who owns what is known on Linux only")
	}
	self := owner()
	parts := strings.Split(self, "/")
	require.Len(t, parts, 4, self)
	with := func(i int, part string) string {
		other := append([]string{}, parts...)
		other[i] = part
		return strings.Join(other, "/")
	}
	program := exec.Command("/bin/true")
	require.NoError(t, program.Run())
	ended := strconv.Itoa(program.Process.Pid)
	for other, want := range map[string]bool{
		self:                         false,
		with(3, "1"):                 true, // the id is another's by now
		with(2, ended):               true,
		with(2, "1"):                 true,  // it is there, and began at another time
		with(0, "other"):             false, // another machine, or an earlier boot, after which the engine restarted too
		with(1, "pid:[1]"):           false, // another container's process
		"":                           false,
		"///":                        false,
		with(2, "-1"):                false,
		with(2, "x"):                 false,
		self + "/more":               false,
		strings.Join(parts[1:], "/"): false,
	} {
		assert.Equal(t, want, isGone(other), other)
	}
}

// leave makes a container as a program leaves it.
func leave(t *testing.T, image string, labels map[string]string) string {
	api := testEngine(t)
	created, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &container.Config{Image: image, Labels: labels, Cmd: []string{"sleep", "1000"}}})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := api.ContainerRemove(context.Background(), created.ID, client.ContainerRemoveOptions{Force: true})
		assert.True(t, err == nil || errdefs.IsNotFound(err), "%v", err)
	})
	return created.ID
}

func TestSweep(t *testing.T) {
	image, _ := testImages(t)
	later, earlier := fmt.Sprint(time.Now().Add(time.Hour).Unix()), fmt.Sprint(time.Now().Add(-time.Second).Unix())
	gone := strings.Split(owner(), "/")
	gone[3] = "1"
	labels := func(owner, ends string) map[string]string {
		return map[string]string{labelSession: "left", labelOwner: owner, labelEnds: ends}
	}
	left := map[string]string{
		"its program is gone":  leave(t, image, labels(strings.Join(gone, "/"), later)),
		"its lifetime is over": leave(t, image, labels(owner(), earlier)),
		"both":                 leave(t, image, labels(strings.Join(gone, "/"), earlier)),
	}
	running := leave(t, image, labels(strings.Join(gone, "/"), later))
	_, err := testEngine(t).ContainerStart(t.Context(), running, client.ContainerStartOptions{})
	require.NoError(t, err)
	left["it runs"] = running
	kept := map[string]string{
		"its program runs":       leave(t, image, labels(owner(), later)),
		"of another machine":     leave(t, image, labels("machine/pid:[1]/1/1", later)),
		"without an owner":       leave(t, image, labels("", later)),
		"somebody else's":        leave(t, image, map[string]string{labelOwner: strings.Join(gone, "/"), labelEnds: earlier}),
		"what has no such label": leave(t, image, nil),
	}
	openTest(t, New(&Options{Image: image}), "sweeps")
	e := &engine{Client: testEngine(t)}
	for what, id := range left {
		exists, err := e.exists(t.Context(), id)
		require.NoError(t, err)
		assert.False(t, exists, what)
	}
	for what, id := range kept {
		exists, err := e.exists(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, exists, what)
	}
}

// run runs a worker in a new sandbox of a session.
func run(t *testing.T, session driver.Session, id string) {
	sandbox, err := session.Create(t.Context(), driver.Spec{ID: id})
	require.NoError(t, err)
	process, err := sandbox.StartWorker(t.Context(), driver.WorkerSpec{})
	require.NoError(t, err)
	require.NoError(t, sandbox.Stop(t.Context()))
	_, _, _, _ = process.Conn().Close(), process.Handshake().Close(), process.Stdout().Close(), process.Stderr().Close()
	if process.Direct() != nil {
		_, _ = process.Direct().Close(), process.Ledger().Close()
	}
}

// volumeOf returns the name of the volume of a session's worker.
func volumeOf(s driver.Session) string { return s.(*session).stage.volume }

func TestVolumeIsRemovedByOthers(t *testing.T) {
	image, _ := testImages(t)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			session := openTest(t, way(&Options{Image: image}), "volume-"+name)
			run(t, session, "one")
			_, err := testEngine(t).VolumeRemove(t.Context(), volumeOf(session), client.VolumeRemoveOptions{})
			require.NoError(t, err)
			run(t, session, "two")
			run(t, session, "three")
		})
	}
}

// A program may be killed while it copies the worker.
func TestHalfCopiedWorkerIsNotRun(t *testing.T) {
	image, _ := testImages(t)
	api := testEngine(t)
	session := openTest(t, New(&Options{Image: image}), "half")
	for what, files := range map[string]map[string]string{
		"nothing is whole":         {"abc/worker": "half"},
		"what is whole is cut off": {"abc/worker": "half", "complete": "ab"},
		"what is whole is empty":   {"abc/worker": "half", "complete": ""},
	} {
		_, err := api.VolumeRemove(t.Context(), volumeOf(session), client.VolumeRemoveOptions{})
		require.NoError(t, err)
		_, err = api.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: volumeOf(session), Labels: workerLabels()})
		require.NoError(t, err)
		helper, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
			Config: &container.Config{Image: image}, HostConfig: &container.HostConfig{Binds: []string{volumeOf(session) + ":" + workerFolder}},
		})
		require.NoError(t, err)
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for name, content := range files {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}))
			_, err := w.Write([]byte(content))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		_, err = api.CopyToContainer(t.Context(), helper.ID, client.CopyToContainerOptions{DestinationPath: workerFolder, Content: &archive})
		require.NoError(t, err)
		_, err = api.ContainerRemove(t.Context(), helper.ID, client.ContainerRemoveOptions{})
		require.NoError(t, err)
		t.Run(what, func(t *testing.T) {
			run(t, openTest(t, New(&Options{Image: image}), "half-"+strings.ReplaceAll(what, " ", "-")), "one")
		})
	}
}

// Sessions of several programs copy the same worker at the same time.
func TestSessionsAtTheSameTime(t *testing.T) {
	image, _ := testImages(t)
	first := openTest(t, New(&Options{Image: image}), "same-0")
	_, err := testEngine(t).VolumeRemove(t.Context(), volumeOf(first), client.VolumeRemoveOptions{})
	require.NoError(t, err)
	var opens sync.WaitGroup
	for i := range 4 {
		opens.Go(func() { run(t, openTest(t, New(&Options{Image: image}), fmt.Sprintf("same-%d", i+1)), "one") })
	}
	opens.Wait()
}

// What changes at its path is not what sandboxes run.
func TestWorkerFileChanges(t *testing.T) {
	image, _ := testImages(t)
	worker := t.TempDir() + "/worker"
	own, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(worker, own, 0o700))
	session, err := New(&Options{Image: image}).Open(t.Context(), driver.SessionSpec{
		ID: "changes", Worker: func(context.Context, driver.Platform) (string, error) { return worker, nil }, Logger: discard,
	})
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close(context.Background())) }()
	require.NoError(t, os.Remove(worker))
	_, err = testEngine(t).VolumeRemove(t.Context(), volumeOf(session), client.VolumeRemoveOptions{})
	require.NoError(t, err)
	run(t, session, "one")
}
