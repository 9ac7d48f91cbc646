package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
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
	"github.com/sandboxfn/sbx/internal/cgroup"
)

// workerMemory uses CODE MiB of memory, and no more where the race detector would keep a shadow of it.
//
//go:norace
func workerMemory() int {
	mib, _ := strconv.Atoi(os.Getenv("CODE"))
	ready()
	if os.Getenv("WAIT") != "" {
		_, _ = os.NewFile(driver.ConnFD, "conn").Read(make([]byte, 1))
	}
	memory, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	fmt.Println("used", mib)
	return 0
}

// workerSpin keeps two threads busy for a second, and prints how many cores it had.
func workerSpin() int {
	used := func() time.Duration {
		var usage syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	begin, before := time.Now(), used()
	end := begin.Add(time.Second)
	var threads sync.WaitGroup
	for range 2 {
		threads.Go(func() {
			for time.Now().Before(end) {
			}
		})
	}
	threads.Wait()
	fmt.Println((used() - before).Seconds() / time.Since(begin).Seconds())
	ready()
	_, _ = os.NewFile(driver.ConnFD, "conn").Read(make([]byte, 1))
	return 0
}

// workerFork starts processes until it can't, or has CODE, and says how many it got.
func workerFork() int {
	most, _ := strconv.Atoi(os.Getenv("CODE"))
	for n := range most {
		if err := exec.Command("/bin/sleep", "1000").Start(); err != nil {
			fmt.Println(n, errno(err))
			return 0
		}
	}
	fmt.Println(most, nil)
	return 0
}

func errno(err error) error {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	return err
}

// workerFill uses up what its arguments name: descriptors, space or files in a folder.
func workerFill() int {
	folder, most := os.Getenv("FOLDER"), 5000
	for n := range most {
		var err error
		switch os.Getenv("CODE") {
		case "descriptors":
			_, err = os.Open("/dev/null") // kept, as is what it opens
			runtime.KeepAlive(err)
		case "files":
			err = os.WriteFile(filepath.Join(folder, strconv.Itoa(n)), nil, 0o600)
		case "MiB":
			err = os.WriteFile(filepath.Join(folder, strconv.Itoa(n)), make([]byte, 1<<20), 0o600)
			most = 200
		}
		if err != nil || n+1 == most {
			fmt.Println(n, errno(err))
			return 0
		}
	}
	return 0
}

// workerLimits says what the Go runtime knows of its limits.
func workerLimits() int {
	fmt.Println(runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1), strings.Join(os.Environ(), " "))
	group, _ := os.ReadFile("/proc/self/cgroup")
	fmt.Print(string(group))
	return 0
}

// begin starts the named worker in a sandbox with limits.
func begin(t testing.TB, session driver.Session, id string, limits driver.Resources, name string, env ...string) (driver.Process, error) {
	sandbox, err := session.Create(testContext(t), driver.Spec{ID: id, Env: append(env, testWorker+"="+name), Limits: limits})
	if err != nil {
		return nil, err
	}
	p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	if err == nil {
		t.Cleanup(func() { closeStreams(p) })
	}
	return p, err
}

// printed runs the named worker in a sandbox with limits and returns what it printed.
func printed(t testing.TB, session driver.Session, id string, limits driver.Resources, name string, env ...string) (string, driver.Exit) {
	p, err := begin(t, session, id, limits, name, env...)
	require.NoError(t, err)
	stdout, stderr, exit := output(t, p)
	return stdout + stderr, exit
}

// needs skips a test where a limit can't be held, after having seen that it is refused.
func needs(t testing.TB, session driver.Session, limit string, ask driver.Resources) {
	if session.Report().Capability(limit).Held {
		return
	}
	_, err := session.Create(t.Context(), driver.Spec{ID: "refused", Limits: ask})
	refusal, ok := errors.AsType[*driver.LimitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, limit, refusal.Limit)
	t.Skip(err)
}

// Memory beyond the limit ends the sandbox that uses it, with an exit that says so, and no other.
func TestMemoryLimit(t *testing.T) {
	session := open(t)
	limit := driver.Resources{MemoryMiB: 128}
	needs(t, session, driver.LimitMemory, limit)

	neighbour, err := begin(t, session, "neighbour", limit, "memory", "CODE=30", "WAIT=1")
	require.NoError(t, err)
	awaitReady(t, neighbour)
	out, exit := printed(t, session, "unlimited", driver.Resources{}, "memory", "CODE=300")
	assert.Equal(t, "used 300\n", out, "the control")
	assert.Equal(t, driver.Exit{}, exit)
	out, exit = printed(t, session, "within", limit, "memory", "CODE=40")
	assert.Equal(t, "used 40\n", out)
	assert.Equal(t, driver.Exit{}, exit)
	out, exit = printed(t, session, "beyond", limit, "memory", "CODE=300")
	assert.Empty(t, out)
	assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}, exit)
	// Files in memory count.
	out, exit = printed(t, session, "files", limit, "fill", "CODE=MiB", "FOLDER=/tmp")
	assert.Empty(t, out)
	assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}, exit)
	// A kill for another reason is none for lack of memory, although one happened just now.
	_, exit = printed(t, session, "signal", limit, "signal", fmt.Sprint("CODE=", int(syscall.SIGKILL)))
	assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)

	_, err = neighbour.Conn().Write([]byte("x"))
	require.NoError(t, err)
	out, _, exit = output(t, neighbour)
	assert.Equal(t, "used 30\n", out)
	assert.Equal(t, driver.Exit{}, exit)
}

// A busy sandbox is throttled, which is counted, and has about what it may have; how much one without a limit has depends on how busy the
// machine is.
func TestCPULimit(t *testing.T) {
	name := sessionID + "-cpus"
	session := openAs(t, name, slog.New(slog.DiscardHandler))
	limit := driver.Resources{CPUs: 0.1}
	needs(t, session, driver.LimitCPUs, limit)
	times, _ := throttled(t, session, name, "control", driver.Resources{CPUs: 64})
	assert.Zero(t, times, "the control")
	times, had := throttled(t, session, name, "limited", limit)
	assert.Greater(t, times, 3, "of ten times in a second")
	assert.Less(t, had, 0.25, "0.1, and what the first and the last period give in advance")
}

// throttled keeps a sandbox of the session with that name busy for a second. It returns how often the kernel had it wait, and how many cores
// it thinks it had.
func throttled(t *testing.T, session driver.Session, name, id string, limit driver.Resources) (times int, had float64) {
	p, err := begin(t, session, id, limit, "spin", "GOMAXPROCS=2")
	require.NoError(t, err)
	awaitReady(t, p)
	times = -1
	for _, folder := range groupFolders(t, name) {
		text, _ := os.ReadFile(filepath.Join(filepath.Dir(folder), "cpu.stat"))
		if _, after, found := strings.Cut(string(text), "nr_throttled "); found && strings.Contains(folder, "/"+id+"/") {
			_, err := fmt.Sscan(after, &times)
			require.NoError(t, err)
		}
	}
	require.NoError(t, p.Conn().Close())
	out, _, exit := output(t, p)
	require.Equal(t, driver.Exit{}, exit, out)
	_, err = fmt.Sscan(out, &had)
	require.NoError(t, err, out)
	return times, had
}

func TestProcessLimit(t *testing.T) {
	session := open(t)
	out, _ := printed(t, session, "control", driver.Resources{}, "fork", "CODE=150")
	assert.Equal(t, "150 <nil>\n", out)
	out, _ = printed(t, session, "limited", driver.Resources{Processes: 100}, "fork", "CODE=150")
	var n int
	_, err := fmt.Sscan(out, &n)
	require.NoError(t, err, out)
	assert.Contains(t, out, "resource temporarily unavailable") // EAGAIN
	assert.Less(t, n, 100)
	assert.Greater(t, n, 50, "the rest are the threads of the agent and the worker")
}

func TestFileLimits(t *testing.T) {
	session := open(t)
	for _, test := range []struct {
		what   string
		limits driver.Resources
		env    []string
		least  int
		most   int
		want   string
	}{
		{"descriptors", driver.Resources{OpenFiles: 100}, nil, 80, 99, "too many open files"},
		{"MiB", driver.Resources{DiskMiB: 10}, []string{"FOLDER=/work"}, 10, 10, "no space left on device"},
		{"MiB", driver.Resources{DiskMiB: 10}, []string{"FOLDER=/tmp"}, 10, 10, "no space left on device"},
		{"MiB", driver.Resources{DiskMiB: 10}, []string{"FOLDER=/dev/shm"}, 10, 10, "no space left on device"},
		{"files", driver.Resources{Inodes: 100}, []string{"FOLDER=/work"}, 99, 99, "no space left on device"},
		{"files", driver.Resources{Inodes: 100}, []string{"FOLDER=/tmp"}, 99, 99, "no space left on device"},
		{"files", driver.Resources{Inodes: 100}, []string{"FOLDER=/dev/shm"}, 99, 99, "no space left on device"},
	} {
		t.Run(strings.Join(append(test.env, test.what), " "), func(t *testing.T) {
			env := append(test.env, "CODE="+test.what)
			var n int
			control, _ := printed(t, session, "control", driver.Resources{}, "fill", env...)
			_, err := fmt.Sscan(control, &n)
			require.NoError(t, err, control)
			assert.GreaterOrEqual(t, n, 60, "the control: %s", control)
			assert.Greater(t, n, test.most, "the control: %s", control)

			out, _ := printed(t, session, "limited", test.limits, "fill", env...)
			_, err = fmt.Sscan(out, &n)
			require.NoError(t, err, out)
			assert.Contains(t, out, test.want)
			assert.GreaterOrEqual(t, n, test.least)
			assert.LessOrEqual(t, n, test.most)
		})
	}
}

// Where the limit is too low for a sandbox itself its start fails: no worker runs without some of its descriptors.
func TestAWorkerHasAllItsDescriptors(t *testing.T) {
	session := open(t)
	for most := 10; most <= 24; most++ {
		p, err := begin(t, session, fmt.Sprint("files-", most), driver.Resources{OpenFiles: most}, "echo")
		if err != nil {
			require.Less(t, most, 24)
			require.ErrorIs(t, err, syscall.EMFILE, "%d", most)
			continue
		}
		require.NoError(t, p.Conn().Close())
		stdout, stderr, _ := output(t, p)
		assert.Equal(t, "to stdout\nto stderr\n", stdout+stderr, "%d", most)
	}
}

// The Go runtime in a sandbox can't see its limits, and is told.
func TestGoRuntimeKnowsItsLimits(t *testing.T) {
	session := open(t)
	limit := driver.Resources{CPUs: 0.5, MemoryMiB: 100}
	needs(t, session, driver.LimitMemory, limit.Without(driver.LimitCPUs))
	needs(t, session, driver.LimitCPUs, limit.Without(driver.LimitMemory))
	out, _ := printed(t, session, "told", limit, "limits")
	assert.Contains(t, out, fmt.Sprintf("1 %d ", 102400/10*9*1024))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines[1:] {
		assert.True(t, strings.HasSuffix(line, ":/"), "its own cgroups are the roots that it sees: %s", line)
	}
	out, _ = printed(t, session, "asked", limit, "limits", "GOMAXPROCS=7", "GOMEMLIMIT=50MiB")
	assert.Contains(t, out, fmt.Sprintf("7 %d GOMAXPROCS=7 GOMEMLIMIT=50MiB TEST_WORKER=limits\n", 50<<20))
	out, _ = printed(t, session, "plenty", driver.Resources{CPUs: 1000}, "limits")
	assert.Contains(t, out, fmt.Sprintf("%d %d TEST_WORKER=limits\n", runtime.NumCPU(), int64(1<<63-1)))
}

// groupFolders finds the folders of sessions' cgroups in the places where they can be: near the group of this process.
func groupFolders(t testing.TB, session string) []string {
	var found []string
	for _, controller := range []string{"memory", "cpu"} {
		v1, v2 := cgroup.Own(controller)
		for _, own := range []string{v1, v2} {
			for folder := own; strings.Contains(folder, "cgroup"); folder = filepath.Dir(folder) {
				for _, pattern := range []string{"sbx-" + session + "-*", "sbx-" + session + "-*/*/cgroup.procs"} {
					paths, err := filepath.Glob(filepath.Join(folder, pattern))
					require.NoError(t, err)
					found = append(found, paths...)
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found) // controllers can share a hierarchy
}

func TestNoGroupIsLeft(t *testing.T) {
	ctx := testContext(t)
	s := spec(t)
	s.ID += "-groups"
	session, err := local.New(nil).Open(ctx, s)
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close(ctx)) }()
	assert.Empty(t, groupFolders(t, s.ID), "none is made before one is needed")
	limit := driver.Resources{CPUs: 1, MemoryMiB: 100}
	needs(t, session, driver.LimitMemory, driver.Resources{MemoryMiB: 100})
	p, err := begin(t, session, "one", limit, "echo")
	require.NoError(t, err)
	awaitReady(t, p)
	one := groupFolders(t, s.ID)
	assert.NotEmpty(t, one)
	for i := range 20 {
		_, exit := printed(t, session, fmt.Sprint("more-", i), limit, "exit", "CODE=0")
		assert.Equal(t, driver.Exit{}, exit)
	}
	assert.Equal(t, one, groupFolders(t, s.ID))
	require.NoError(t, session.Close(ctx))
	assert.Empty(t, groupFolders(t, s.ID))
}

// workerLimited is a client with a sandbox that has a group, and does not clean up.
func workerLimited() int {
	ctx := context.Background()
	session, err := local.New(nil).Open(ctx, driver.SessionSpec{ID: os.Getenv("SESSION"), Worker: worker("/proc/self/exe"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	sandbox, err := session.Create(ctx, driver.Spec{ID: "one", Env: []string{testWorker + "=echo"}, Limits: driver.Resources{MemoryMiB: 100}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p, err := sandbox.StartWorker(ctx, driver.WorkerSpec{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := bufio.NewReader(p.Handshake()).ReadString('\n'); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	return forever()
}

// limitedClient starts a client and returns it with its session's launcher and agent.
func limitedClient(t *testing.T, id string) (client *exec.Cmd, processes []string) {
	client = exec.Command("/proc/self/exe")
	client.Env = []string{testWorker + "=limited", "SESSION=" + id}
	stdout, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	t.Cleanup(func() {
		_ = client.Process.Kill()
		_ = client.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	require.NotEmpty(t, groupFolders(t, id))
	processes = roles(t, id)
	require.NotEmpty(t, processes) // its launcher; the agent may not have its name yet
	return client, processes
}

func TestKilledClientLeavesNoGroup(t *testing.T) {
	needs(t, open(t), driver.LimitMemory, driver.Resources{MemoryMiB: 100})
	id := sessionID + "-killed"
	client, processes := limitedClient(t, id)
	fds := deathsOf(t, processes)
	require.NoError(t, client.Process.Kill())
	awaitDeaths(t, fds) // the launcher's last
	assert.Empty(t, groupFolders(t, id))
}

// openAs opens a session whose groups can be told from those of others.
func openAs(t *testing.T, id string, logger *slog.Logger) driver.Session {
	s := spec(t)
	s.ID, s.Logger = id, logger
	session, err := local.New(nil).Open(testContext(t), s)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
	return session
}

// A launcher that is killed leaves empty groups, which the next launcher with something to limit removes; those of launchers that live
// it leaves alone, although they are empty too.
func TestKilledLauncherLeavesGroupsToTheNext(t *testing.T) {
	limit := driver.Resources{MemoryMiB: 100}
	runs := func(session driver.Session, id string) {
		_, exit := printed(t, session, id, limit, "exit", "CODE=0")
		assert.Equal(t, driver.Exit{}, exit)
	}
	alive, killed := sessionID+"-alive", sessionID+"-launcher"
	session := openAs(t, alive, slog.New(slog.DiscardHandler))
	needs(t, session, driver.LimitMemory, limit)
	runs(session, "one")
	_, processes := limitedClient(t, killed)
	fds := deathsOf(t, processes)
	for _, pid := range processes {
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.HasPrefix(string(line), "sbx-launcher\x00") {
			require.NoError(t, unix.PidfdSendSignal(fds[pid], unix.SIGKILL, nil, 0))
		}
	}
	awaitDeaths(t, fds)
	require.NotEmpty(t, groupFolders(t, killed), "the control")
	runs(open(t), "next")
	assert.Empty(t, groupFolders(t, killed))
	assert.NotEmpty(t, groupFolders(t, alive))
	runs(session, "two")
}

// A limit that can be held here and fails all the same for one sandbox: its group's name is taken.
func TestLimitThatFailsLate(t *testing.T) {
	var logged bytes.Buffer
	id := sessionID + "-late"
	session := openAs(t, id, slog.New(slog.NewTextHandler(&logged, nil)))
	limit := driver.Resources{MemoryMiB: 100}
	needs(t, session, driver.LimitMemory, limit)
	_, exit := printed(t, session, "first", limit, "exit", "CODE=0")
	require.Equal(t, driver.Exit{}, exit)
	folders := groupFolders(t, id)
	require.Len(t, folders, 1)
	require.NoError(t, os.Mkdir(filepath.Join(folders[0], "taken"), 0o755))

	_, err := begin(t, session, "taken", limit, "exit", "CODE=0")
	refused, ok := errors.AsType[*driver.LimitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, driver.LimitMemory, refused.Limit)
	assert.ErrorContains(t, err, "set up sandbox taken: limit memory: make a cgroup: file exists")
	assert.Empty(t, logged.String())

	soft := func(id string) string {
		sandbox, err := session.Create(testContext(t), driver.Spec{ID: id, Env: []string{testWorker + "=limits"}, Soft: limit})
		require.NoError(t, err)
		p, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
		require.NoError(t, err)
		defer closeStreams(p)
		out, _, exit := output(t, p)
		assert.Equal(t, driver.Exit{}, exit)
		return out
	}
	assert.Contains(t, soft("free"), "GOMEMLIMIT=")
	assert.Empty(t, logged.String())
	assert.NotContains(t, soft("taken"), "GOMEMLIMIT=", "the Go runtime goes by what is held")
	assert.Contains(t, logged.String(), "sandbox=taken limit=memory")
}
