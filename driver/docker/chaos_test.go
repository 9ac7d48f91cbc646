//go:build !sbxworker

package docker_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
)

var inARow = flag.Int("in-a-row", 50, "how many sandboxes TestInARow makes in each way")

// patience is how long what takes a moment may take on a busy machine.
const patience = 30 * time.Second

// user is a session of a test, and what the engine shows of it.
type user struct {
	*testing.T
	*sbx.Session
	tag    string
	engine *client.Client
}

// each runs a test with sandboxes that are reached by sockets, and by streams.
func each(t *testing.T, run func(u *user), opts ...sbx.OpenOption) {
	image, _ := docker.TestImages(t)
	for name, way := range docker.Ways {
		t.Run(name, func(t *testing.T) { run(use(t, way(&docker.Options{Image: image}), opts...)) })
	}
}

var users atomic.Int64

func use(t *testing.T, d driver.Driver, opts ...sbx.OpenOption) *user {
	u := &user{T: t, tag: fmt.Sprintf("test-%d-%d", os.Getpid(), users.Add(1)), engine: docker.TestEngine(t)}
	session, err := sbx.Open(t.Context(), append([]sbx.OpenOption{sbx.Driver(d), sbx.Tags(u.tag), sbx.MaxSandboxes(2), sbx.Output(drop)}, opts...)...)
	require.NoError(t, err)
	u.Session = session
	t.Cleanup(func() {
		assert.NoError(t, session.Close())
		assert.Empty(t, u.containers(), "nothing is left")
	})
	return u
}

// containers are those of the session.
func (u *user) containers() []container.Summary { return tagged(u, u.engine, u.tag) }

func tagged(t require.TestingT, engine *client.Client, tag string) []container.Summary {
	list, err := engine.ContainerList(context.Background(), client.ContainerListOptions{All: true, Filters: docker.Filter("label", docker.LabelTag+tag)})
	require.NoError(t, err)
	return list.Items
}

// runs waits until a call runs in a sandbox.
func (u *user) runs() {
	require.Eventually(u, func() bool {
		for _, call := range u.Calls() {
			if call.State == sbx.CallRunning {
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond)
}

// double checks that calls are answered.
func (u *user) double() {
	got, err := u.Function2(Double).Call(u.Context(), 21, 0)
	require.NoError(u, err)
	assert.Equal(u, 42, got)
}

func TestContainerKilledMidCall(t *testing.T) {
	each(t, func(u *user) {
		call := u.Function2(Double).Spawn(u.Context(), 1, time.Hour)
		u.runs()
		running := u.containers()
		require.Len(u, running, 1)
		began := time.Now()
		_, err := u.engine.ContainerKill(u.Context(), running[0].ID, client.ContainerKillOptions{Signal: "KILL"})
		require.NoError(u, err)
		_, err = call.Result(u.Context())
		lost, ok := errors.AsType[*sbx.SandboxLostError](err)
		require.True(u, ok, "%v", err)
		assert.Less(u, time.Since(began), 10*time.Second, "it is noticed at once")
		require.NotNil(u, lost.Exit)
		assert.Equal(u, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, *lost.Exit)
		failed, ok := errors.AsType[*sbx.CallError](err)
		require.True(u, ok)
		assert.Equal(u, sbx.MayHaveRun, failed.Delivery)
		u.double()
	})
}

// held returns those of limits that the engine holds. Of each other one it checks that it is refused, and why.
func held(t *testing.T, limits sbx.Resources) sbx.Resources {
	image, _ := docker.TestImages(t)
	d := docker.New(&docker.Options{Image: image})
	report := use(t, d).Report()
	for _, name := range limits.Names() {
		c := report.Capability(name)
		if c.Held {
			continue
		}
		t.Logf("the engine can't limit %s: %s", name, c.Why)
		var others []string
		for _, other := range limits.Names() {
			if other != name {
				others = append(others, other)
			}
		}
		_, err := sbx.Open(t.Context(), sbx.Driver(d), sbx.Limit(limits.Without(others...)))
		refused, ok := errors.AsType[*driver.LimitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, name, refused.Limit)
		assert.NotEmpty(t, refused.Remedies)
		limits = limits.Without(name)
	}
	return limits
}

func TestOutOfMemory(t *testing.T) {
	limits := held(t, sbx.Resources{MemoryMiB: 128})
	if limits.MemoryMiB == 0 {
		t.Skip("the engine can't limit memory, and says so")
	}
	each(t, func(u *user) {
		_, err := u.Function(Allocate).Call(u.Context(), 300)
		require.ErrorIs(u, err, sbx.ErrOutOfMemory)
		got, err := u.Function(Allocate).Call(u.Context(), 10)
		require.NoError(u, err)
		assert.Equal(u, 10<<20, got)
	}, sbx.Limit(limits))
}

// What the engine holds of the limits is held, and the rest refused.
func TestLimits(t *testing.T) {
	limits := held(t, sbx.Resources{CPUs: 0.5, Processes: 100, OpenFiles: 200, DiskMiB: 20, Inodes: 100})
	image, _ := docker.TestImages(t)
	u := use(t, docker.New(&docker.Options{Image: image}), sbx.Limit(limits))
	opened, err := u.Function(Open).Call(t.Context(), 1000)
	require.NoError(t, err)
	assert.Greater(t, opened, 100)
	assert.Less(t, opened, 200)
	for _, folder := range []string{"/work", "/tmp", "/dev/shm"} {
		filled, err := u.Function(Fill).Call(t.Context(), folder)
		require.NoError(t, err)
		assert.InDelta(t, 20, filled[0], 1, folder)
		if limits.Inodes > 0 {
			assert.InDelta(t, 100, filled[1], 5, folder)
		}
	}
	if limits.CPUs > 0 {
		for _, c := range u.containers() {
			is, err := u.engine.ContainerInspect(t.Context(), c.ID, client.ContainerInspectOptions{})
			require.NoError(t, err)
			assert.InDelta(t, 0.5, float64(is.Container.HostConfig.CPUQuota)/float64(is.Container.HostConfig.CPUPeriod), 1e-9)
		}
	}
	if limits.Processes > 0 {
		forked, err := u.Function(Fork).Call(t.Context(), 1000)
		require.NoError(t, err)
		assert.Greater(t, forked, 20)
		assert.Less(t, forked, 100, "the worker's threads count")
	}
}

func TestEscape(t *testing.T) {
	each(t, func(u *user) {
		done, err := u.Function0(Escape).Call(u.Context())
		require.NoError(u, err)
		assert.Empty(u, done)
		u.double()
	})
}

// What the engine shows of a sandbox has nothing of its environment.
func TestNothingSecretIsShown(t *testing.T) {
	const secret = "hunter2"
	each(t, func(u *user) {
		u.double()
		for _, c := range u.containers() {
			is, err := u.engine.ContainerInspect(u.Context(), c.ID, client.ContainerInspectOptions{})
			require.NoError(u, err)
			assert.NotContains(u, string(is.Raw), secret)
			assert.NotContains(u, string(is.Raw), "PASSWORD")
			host := is.Container.HostConfig
			assert.True(u, host.ReadonlyRootfs && host.AutoRemove && !host.Privileged)
			assert.Equal(u, []string{"no-new-privileges"}, host.SecurityOpt)
			assert.Equal(u, container.NetworkMode("none"), host.NetworkMode)
			assert.Equal(u, "65532:65532", is.Container.Config.User)
			for _, m := range is.Container.Mounts {
				assert.False(u, m.RW, m.Destination)
			}
		}
		shown, err := u.Sandbox().Command("sed", "-n", "s/^Cap.*:[[:space:]]*//p", "/proc/self/status").Output()
		require.NoError(u, err)
		assert.Equal(u, strings.Repeat(strings.Repeat("0", 16)+"\n", 5), string(shown), "no capabilities")
	}, sbx.Env("PASSWORD", secret))
}

func TestLifetime(t *testing.T) {
	image, _ := docker.TestImages(t)
	u := use(t, docker.New(&docker.Options{Image: image, Lifetime: 3 * time.Second}))
	_, err := u.Function2(Double).Call(t.Context(), 1, time.Hour)
	lost, ok := errors.AsType[*sbx.SandboxLostError](err)
	require.True(t, ok, "%v", err)
	require.NotNil(t, lost.Exit, "%v", err)
	assert.Equal(t, syscall.SIGKILL, lost.Exit.Signal)
	require.Eventually(t, func() bool { return len(u.containers()) == 0 }, patience, 10*time.Millisecond)
	u.double()
}

func TestInARow(t *testing.T) {
	each(t, func(u *user) {
		n := *inARow
		if testing.Short() {
			n = 10
		}
		for i := range n {
			sb := u.Sandbox()
			out, err := sb.Command("echo", fmt.Sprint(i)).Output()
			require.NoError(u, err)
			assert.Equal(u, fmt.Sprintln(i), string(out))
			require.NoError(u, sb.Stop(u.Context()))
		}
		assert.Empty(u, u.containers())
	})
}

// clientVariable makes this test binary a program that has sandboxes, until it is killed.
const clientVariable = "SBX_TEST_DOCKER_CLIENT"

func TestClient(t *testing.T) {
	tag := os.Getenv(clientVariable)
	if tag == "" {
		t.Skip("others run it in a process of its own")
	}
	image, _ := docker.TestImages(t)
	way := docker.New
	if strings.Contains(tag, "stream") {
		way = docker.ByStream
	}
	fmt.Println("begins")
	session, err := sbx.Open(t.Context(), sbx.Driver(way(&docker.Options{Image: image})), sbx.Tags(tag), sbx.MaxSandboxes(3))
	require.NoError(t, err)
	for range 3 {
		session.Function2(Double).Spawn(t.Context(), 1, time.Hour)
	}
	require.Eventually(t, func() bool {
		running := 0
		for _, call := range session.Calls() {
			if call.State == sbx.CallRunning {
				running++
			}
		}
		return running == 3
	}, patience, 10*time.Millisecond)
	fmt.Println("runs")
	select {}
}

// program starts TestClient in a process of its own, and waits until it says something.
func program(t *testing.T, tag, temporary, says string) *exec.Cmd {
	program := exec.Command("/proc/self/exe", "-test.run=^TestClient$")
	program.Env = append(os.Environ(), clientVariable+"="+tag, "TMPDIR="+temporary)
	program.Stderr = t.Output()
	out, err := program.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, program.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != says {
		t.Log(lines.Text())
	}
	return program
}

func kill(t *testing.T, program *exec.Cmd) {
	require.NoError(t, program.Process.Kill())
	_ = program.Wait()
}

// What a program has that is killed ends with it, without any other program.
func TestClientKilled(t *testing.T) {
	image, _ := docker.TestImages(t)
	engine := docker.TestEngine(t)
	for name := range docker.Ways {
		t.Run(name, func(t *testing.T) {
			tag, temporary := fmt.Sprintf("client-%s-%d", name, os.Getpid()), t.TempDir()
			client := program(t, tag, temporary, "runs")
			assert.Len(t, tagged(t, engine, tag), 3)
			kill(t, client)
			require.Eventually(t, func() bool { return len(tagged(t, engine, tag)) == 0 }, patience, 10*time.Millisecond)

			t.Setenv("TMPDIR", temporary)
			use(t, docker.New(&docker.Options{Image: image})).double()
			folders, err := os.ReadDir(temporary)
			require.NoError(t, err)
			assert.LessOrEqual(t, len(folders), 1, "the next session removes what the program has left")
		})
	}
}

// A program may be killed when the engine has made a container for it and not yet started that. The next session removes it.
func TestClientKilledAtAnyTime(t *testing.T) {
	image, _ := docker.TestImages(t)
	engine := docker.TestEngine(t)
	for name := range docker.Ways {
		tag := fmt.Sprintf("any-%s-%d", name, os.Getpid())
		for i := range 6 {
			client := program(t, tag, t.TempDir(), "begins")
			time.Sleep(time.Duration(i) * 150 * time.Millisecond)
			kill(t, client)
		}
		require.Eventually(t, func() bool {
			use(t, docker.New(&docker.Options{Image: image})).double()
			return len(tagged(t, engine, tag)) == 0
		}, patience, 10*time.Millisecond)
	}
}

// cable is a network between a program and the engine.
type cable struct {
	address string
	mu      sync.Mutex
	cut     bool
	conns   []net.Conn
}

// newCable makes the engine's socket one of TCP.
func newCable(t *testing.T) *cable {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	to := strings.TrimPrefix(docker.TestEngine(t).DaemonHost(), "unix://")
	c := &cable{address: listener.Addr().String()}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", to)
			if err != nil || !c.carry(near, far) {
				_ = near.Close()
				continue
			}
			copies.Go(func() { _, _ = io.Copy(far, near); closeWrite(far) })
			copies.Go(func() { _, _ = io.Copy(near, far); closeWrite(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.sever()
		copies.Wait()
	})
	return c
}

func closeWrite(conn net.Conn) { _ = conn.(interface{ CloseWrite() error }).CloseWrite() }

func (c *cable) carry(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conns...)
	if c.cut {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	return !c.cut
}

// sever ends all connections and lets no other through, until it is mended.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// An engine on another machine is reached by its API alone.
func TestRemoteEngine(t *testing.T) {
	image, _ := docker.TestImages(t)
	cable := newCable(t)
	u := use(t, docker.New(&docker.Options{Image: image, Host: "tcp://" + cable.address}))
	u.double()
	out, err := u.Sandbox().Command("sh", "-c", "id -u; cat").Output()
	require.NoError(t, err)
	assert.Equal(t, "65532\n", string(out))

	_, err = u.Function2(Double, sbx.Mount(t.TempDir(), "/data")).Call(t.Context(), 1, 0)
	mount, ok := errors.AsType[*driver.MountError](err)
	require.True(t, ok, "%v", err)
	assert.NotEmpty(t, mount.Remedies)

	// The network is cut while a call runs, and is there again.
	call := u.Function2(Double).Spawn(t.Context(), 1, time.Hour)
	u.runs()
	cable.sever()
	_, err = call.Result(t.Context())
	lost, ok := errors.AsType[*sbx.SandboxLostError](err)
	require.True(t, ok, "%v", err)
	assert.Nil(t, lost.Exit, "nobody could say how it ended")
	cable.mend()
	u.double()
	require.Eventually(t, func() bool { return len(u.containers()) <= 2 }, patience, 10*time.Millisecond, "what was cut off ends")
}

// drop is for what sandboxes print.
func drop(string) (stdout, stderr io.Writer) { return io.Discard, io.Discard }
