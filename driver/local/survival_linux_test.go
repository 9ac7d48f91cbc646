package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
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
)

var (
	starts = flag.Int("starts", 100, "how many sandboxes TestNothingIsLeft starts and stops one by one")
	atOnce = flag.Int("at-once", 20, "how many sandboxes TestNothingIsLeft has at the same time")
)

// leftovers counts what a sandbox might leave behind. Mounts are the host's and the launcher's, namespaces and processes
// are those of this process's descendants, however they were orphaned.
type leftovers struct {
	Processes, Descendants, Namespaces, Mounts, LauncherMounts, ControlGroups, Descriptors, Files int
}

// roles finds the launchers and agents of a session. What a launcher has forked bears its name until it executes a program.
func roles(t testing.TB, session string) []string {
	var found []string
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		arguments := strings.Split(string(line), "\x00")
		if len(arguments) < 2 {
			continue
		}
		pid := strings.Split(path, "/")[2]
		if strings.HasPrefix(arguments[1], session+"/") || arguments[1] == session && !slices.Equal(line, parentLine(pid)) {
			found = append(found, pid)
		}
	}
	return found
}

// parentLine is the command line of a process's parent.
func parentLine(pid string) []byte {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	var state string
	var parent int
	_, _ = fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parent))
	return line
}

// awaitRoles returns the session's launcher and agents when there are n. A worker can be ready before its process 1 has become
// the agent, and so has its name; nothing tells when.
func awaitRoles(t testing.TB, session string, n int) (found []string) {
	require.Eventually(t, func() bool {
		found = roles(t, session)
		return len(found) == n
	}, 10*time.Second, time.Millisecond)
	return found
}

// settled is what there is without sandboxes, ten times in a row, once the launcher has made its spare, which it does in its own time. The last
// of the spare's namespaces is that of control groups, which it makes itself.
func settled(t testing.TB) (found leftovers) {
	same := 0
	require.Eventually(t, func() bool {
		earlier := found
		ours, err := os.Readlink("/proc/self/ns/cgroup")
		require.NoError(t, err)
		own := 0
		for _, pid := range descendants(t) {
			if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/cgroup", pid)); err == nil && theirs != ours {
				own++
			}
		}
		found = count(t)
		if own != 1 || found.Descendants != 2 || found != earlier { // the launcher, and the spare's process 1
			same = 0
		}
		same++
		return same == 10
	}, 20*time.Second, 10*time.Millisecond)
	return found
}

func count(t testing.TB) leftovers {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	opened, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	files, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	found := leftovers{Mounts: bytes.Count(mounts, []byte{'\n'}), Descriptors: len(opened), Files: len(files)}
	for _, id := range roles(t, sessionID) {
		found.Processes++
		if line, err := os.ReadFile("/proc/" + id + "/cmdline"); err == nil && bytes.HasPrefix(line, []byte("sbx-launcher")) {
			mounts, err := os.ReadFile("/proc/" + id + "/mountinfo")
			require.NoError(t, err)
			found.LauncherMounts += bytes.Count(mounts, []byte{'\n'})
		}
	}
	namespaces := map[string]bool{}
	for _, pid := range descendants(t) {
		found.Descendants++
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/ns/*", pid))
		for _, link := range links {
			namespace, _ := os.Readlink(link)
			namespaces[namespace] = true
		}
	}
	found.Namespaces = len(namespaces)
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(entry.Name(), sessionID) {
			found.ControlGroups++
		}
		return nil // what went meanwhile is not ours
	})
	require.NoError(t, err)
	return found
}

// descendants are this process's children and theirs. Zombies that were orphaned, and so are this process's to reap, it
// reaps.
func descendants(t testing.TB) []int {
	adoptOrphans(t)
	children := map[int][]int{}
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var state string
		var parent int
		_, err = fmt.Sscan(string(line[bytes.LastIndexByte(line, ')')+1:]), &state, &parent)
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		require.NoError(t, err)
		children[parent] = append(children[parent], pid)
		if state == "Z" && parent == os.Getpid() {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			children[parent] = slices.DeleteFunc(children[parent], func(id int) bool { return id == pid })
		}
	}
	found := children[os.Getpid()]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// adoptOrphans makes this process the parent of descendants whose own parent has died.
func adoptOrphans(t testing.TB) {
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

func TestNothingIsLeft(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other programs use the common one
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*starts+*atOnce)*time.Second)
	defer cancel()
	mounted := t.TempDir()
	// live starts a sandbox, each other one with a mount, and returns what stops it.
	live := func(session driver.Session, id string) (stop func()) {
		asked := driver.Spec{ID: id, Env: []string{testWorker + "=echo"}}
		if id[len(id)-1]%2 == 0 { // as that of "first" is
			asked.Mounts = []driver.Mount{{Source: mounted, Target: "/data", Writable: true}}
		}
		sandbox, err := session.Create(ctx, asked)
		require.NoError(t, err)
		p, err := sandbox.StartWorker(ctx, driver.WorkerSpec{})
		require.NoError(t, err)
		awaitReady(t, p)
		return func() {
			assert.NoError(t, sandbox.Stop(ctx))
			closeStreams(p)
		}
	}
	before := count(t)
	session, err := local.New(nil).Open(ctx, spec(t))
	require.NoError(t, err)
	live(session, "first")()
	quiet := func() leftovers {
		live(session, "one")() // after which there is a spare
		return settled(t)
	}
	opened := quiet()
	for i := range *starts {
		live(session, fmt.Sprint("serial-", i))()
	}
	assert.Equal(t, opened, quiet(), "after %d one by one", *starts)
	var group sync.WaitGroup
	stops := make([]func(), *atOnce)
	for i := range stops {
		group.Go(func() { stops[i] = live(session, fmt.Sprint("parallel-", i)) })
	}
	group.Wait()
	awaitRoles(t, sessionID, opened.Processes+*atOnce) // they live at the same time
	assert.Greater(t, count(t).Namespaces, opened.Namespaces+5**atOnce)
	for _, stop := range stops {
		group.Go(stop)
	}
	group.Wait()
	assert.Equal(t, opened, quiet(), "after %d at once", *atOnce)

	// Starts that are cut short, wherever they are.
	for i := range 20 {
		short, cancel := context.WithCancel(ctx)
		sandbox, err := session.Create(ctx, driver.Spec{ID: fmt.Sprint("short-", i), Env: []string{testWorker + "=echo"}})
		require.NoError(t, err)
		group.Go(cancel)
		if p, err := sandbox.StartWorker(short, driver.WorkerSpec{}); err == nil {
			closeStreams(p)
		} else {
			assert.ErrorIs(t, err, context.Canceled)
		}
		require.NoError(t, sandbox.Stop(ctx))
	}
	group.Wait()
	assert.Equal(t, opened, quiet(), "after cancelled starts")
	require.NoError(t, session.Close(ctx))
	assert.Equal(t, before, count(t), "after Close")
}

// workerClient is a client with sandboxes whose processes have descendants, and which does not clean up.
func workerClient() int {
	ctx := context.Background()
	session, err := local.New(nil).Open(ctx, driver.SessionSpec{ID: os.Getenv("SESSION"), Worker: worker("/proc/self/exe"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	sandboxes, _ := strconv.Atoi(os.Getenv("SANDBOXES"))
	for i := range sandboxes {
		sandbox, err := session.Create(ctx, driver.Spec{ID: fmt.Sprint(i), Env: []string{testWorker + "=family"}})
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
	}
	if os.Getenv("STEPS") != "" {
		_, _ = unix.Write(100, []byte(setUpIsOver))
	}
	fmt.Println("ready")
	return forever()
}

// clientWithSandboxes starts a client and returns it when its session has two sandboxes, with what becomes readable when their
// processes die.
func clientWithSandboxes(t *testing.T, client *exec.Cmd, id string) map[string]int {
	client.Env = []string{testWorker + "=client", "SESSION=" + id, "SANDBOXES=2"}
	stdout, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	t.Cleanup(func() { _ = client.Process.Kill() }) // when this fails half-way
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	fds := deathsOf(t, awaitRoles(t, id, 1+2))
	require.Len(t, fds, 1+2, "a launcher, and an agent in each sandbox")
	return fds
}

func TestKilledClientLeavesNothing(t *testing.T) {
	id := sessionID + "-client"
	client := exec.Command("/proc/self/exe")
	fds := clientWithSandboxes(t, client, id)
	require.NoError(t, client.Process.Kill())
	assert.Error(t, client.Wait())
	awaitDeaths(t, fds)
	assert.Empty(t, roles(t, id))
}

// A launcher that something has stopped before its client is killed goes on, to clean up.
func TestKilledClientOfAStoppedLauncher(t *testing.T) {
	id := sessionID + "-stopped"
	client := exec.Command("/proc/self/exe")
	fds := clientWithSandboxes(t, client, id)
	stopped := 0
	for pid, fd := range fds {
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && bytes.HasPrefix(line, []byte("sbx-launcher")) {
			require.NoError(t, unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0))
			stopped++
		}
	}
	require.Equal(t, 1, stopped)
	require.NoError(t, client.Process.Kill())
	assert.Error(t, client.Wait())
	awaitDeaths(t, fds)
	assert.Empty(t, roles(t, id))
}

func TestKilledLauncherLeavesNothing(t *testing.T) {
	ctx := testContext(t)
	session, err := local.New(nil).Open(ctx, spec(t))
	require.NoError(t, err)
	launcher := roles(t, sessionID)
	require.Len(t, launcher, 1)
	sandbox, p := start(t, session, "one", "family")
	awaitReady(t, p)
	reserved, err := session.Create(ctx, driver.Spec{ID: "two"})
	require.NoError(t, err)
	fds := deathsOf(t, awaitRoles(t, sessionID, 2))
	require.Len(t, fds, 2)

	require.NoError(t, unix.PidfdSendSignal(fds[launcher[0]], unix.SIGKILL, nil, 0))
	_, err = p.Wait(ctx)
	// Between the two stands what the launcher and process 1 wrote to stderr, such as warnings of the race detector.
	assert.ErrorContains(t, err, "the local driver's launcher died: signal: killed")
	assert.ErrorContains(t, err, "; open a new session")
	awaitDeaths(t, fds)
	out, _ := io.ReadAll(p.Stdout()) // ends when the descendants are dead
	assert.Empty(t, out)
	_, err = reserved.StartWorker(ctx, driver.WorkerSpec{})
	assert.ErrorContains(t, err, "launcher died")
	assert.NoError(t, sandbox.Stop(ctx))
	assert.NoError(t, reserved.Stop(ctx))
	assert.NoError(t, session.Close(ctx))
	assert.Empty(t, roles(t, sessionID))
}

// A launcher that something has stopped is no reason to wait, nor to leave a sandbox.
func TestStoppedLauncher(t *testing.T) {
	ctx := testContext(t)
	session, err := local.New(nil).Open(ctx, spec(t))
	require.NoError(t, err)
	launcher := roles(t, sessionID)
	require.Len(t, launcher, 1)
	first, p := start(t, session, "one", "family")
	awaitReady(t, p)
	_, second := start(t, session, "two", "family")
	awaitReady(t, second)
	fds := deathsOf(t, roles(t, sessionID))
	stop := func() { require.NoError(t, unix.PidfdSendSignal(fds[launcher[0]], unix.SIGSTOP, nil, 0)) }

	stop()
	require.NoError(t, first.Stop(ctx))
	exit, err := p.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
	stop()
	require.NoError(t, session.Close(ctx))
	assert.NoError(t, ctx.Err(), "nothing waited for the end of the context")
	awaitDeaths(t, fds)
}

// A sandbox's process 1 that dies takes its worker with it, and nobody else.
func TestKilledAgent(t *testing.T) {
	session := open(t)
	launcher := roles(t, sessionID)
	_, p := start(t, session, "one", "family")
	awaitReady(t, p)
	both := awaitRoles(t, sessionID, 2)
	agent := slices.DeleteFunc(both, func(id string) bool { return id == launcher[0] })
	fds := deathsOf(t, agent)
	require.NoError(t, unix.PidfdSendSignal(fds[agent[0]], unix.SIGKILL, nil, 0))
	_, _, exit := output(t, p)
	assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
	_, p = start(t, session, "two", "exit", "CODE=4")
	_, _, exit = output(t, p)
	assert.Equal(t, driver.Exit{Code: 4}, exit)
}

// deathsOf returns descriptors that become readable when the processes die, those of them that live.
func deathsOf(t testing.TB, ids []string) map[string]int {
	fds := map[string]int{}
	for _, id := range ids {
		var pid int
		_, err := fmt.Sscan(id, &pid)
		require.NoError(t, err)
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // dead by now
		}
		require.NoError(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		fds[id] = fd
	}
	return fds
}

func awaitDeaths(t testing.TB, fds map[string]int) {
	for id, fd := range fds {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		for err == unix.EINTR {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		}
		require.NoError(t, err)
		require.Equal(t, 1, n, "process %s lives ten seconds later", id)
	}
}

// Where the kernel refuses, Open says so, and what would help. A user namespace in which there may be no others is as
// good as a kernel that allows none.
func TestRefusedNamespaces(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	client := exec.Command("/bin/sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces && exec "+self)
	client.Env = []string{testWorker + "=client", "SESSION=" + sessionID + "-refused"}
	client.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := client.Output()
	assert.Error(t, err)
	assert.Contains(t, string(out), "the local driver can't isolate here")
	assert.Contains(t, string(out), "sysctl -w user.max_user_namespaces=15000")
}

// No process waits for a sandbox that a session seems not to need: one without limits of its own.
func TestNoSpareForOtherLimits(t *testing.T) {
	session := open(t)
	for i := range 3 {
		_, exit := printed(t, session, fmt.Sprint("limited-", i), driver.Resources{OpenFiles: 100}, "exit", "CODE=0")
		assert.Equal(t, driver.Exit{}, exit)
	}
	// When a sandbox has started whose request came later, the launcher has long decided.
	p, err := begin(t, session, "last", driver.Resources{OpenFiles: 100}, "echo")
	require.NoError(t, err)
	awaitReady(t, p)
	assert.Len(t, descendants(t), 3, "the launcher, the sandbox's process 1 and the worker")
	require.NoError(t, p.Kill())
	_, _, _ = output(t, p)

	_, exit := printed(t, session, "usual", driver.Resources{}, "exit", "CODE=0")
	assert.Equal(t, driver.Exit{}, exit)
	settled(t) // there is one now
}

// Whoever kills the process 1 that waits for the next sandbox makes that one's start slower, and no more.
func TestKilledSpare(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other programs use the common one
	session := open(t)
	echo := func(id string) {
		sandbox, p := start(t, session, id, "echo")
		awaitReady(t, p)
		require.NoError(t, sandbox.Stop(t.Context()))
		closeStreams(p)
	}
	echo("one")
	before := settled(t)
	killed := 0
	for _, pid := range descendants(t) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && !bytes.HasPrefix(line, []byte("sbx-launcher")) {
			death := deathsOf(t, []string{strconv.Itoa(pid)})
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			awaitDeaths(t, death)
			killed++
		}
	}
	require.Equal(t, 1, killed)
	echo("two")
	after := settled(t)
	after.Descriptors-- // by which its death was seen
	assert.Equal(t, before, after)
}

// A service manager may send it to every process of a service: when to end is the program's to say.
func TestSIGTERMToAll(t *testing.T) {
	session := open(t)
	_, p := start(t, session, "one", "patient")
	awaitReady(t, p)
	// The launcher, the spare's process 1, the sandbox's and the worker. Before the spare has given up its privileges it may end of the signal: a Go program begins with
	// such handlers.
	require.Eventually(t, func() bool {
		unprivileged := 0
		for _, pid := range descendants(t) {
			if number(t, pid, "CapEff", 16) == 0 {
				unprivileged++
			}
		}
		return unprivileged == 3
	}, 20*time.Second, 10*time.Millisecond)
	for _, pid := range descendants(t) {
		require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	}
	_, second := start(t, session, "two", "echo")
	awaitReady(t, second)
	_, err := p.Conn().Write([]byte("x"))
	require.NoError(t, err)
	answer := make([]byte, 1)
	_, err = io.ReadFull(p.Conn(), answer)
	require.NoError(t, err, "the worker, which ignores the signal, lives on, and so does its process 1")
}

// Process 1 keeps its threads, or in a program with C code executes itself, which ends those that had privileges. Either way none has any when it has its name.
func TestNoThreadOfProcess1HasPrivileges(t *testing.T) {
	session := open(t)
	launcher := roles(t, sessionID)
	require.Len(t, launcher, 1)
	_, p := start(t, session, "one", "patient")
	awaitReady(t, p)
	threads := func(pid, name string) (values []string) {
		paths, err := filepath.Glob("/proc/" + pid + "/task/[0-9]*/status")
		require.NoError(t, err)
		for _, path := range paths {
			status, err := os.ReadFile(path)
			require.NoError(t, err)
			_, value, found := strings.Cut(string(status), "\n"+name+":")
			require.True(t, found)
			values = append(values, strings.Fields(value)[0])
		}
		return values
	}
	for _, pid := range awaitRoles(t, sessionID, 2) {
		for name, want := range map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
			values := threads(pid, name)
			assert.Greater(t, len(values), 1)
			for _, value := range values {
				if pid == launcher[0] && name != "Seccomp" { // a container's may be there
					assert.NotEqual(t, want, value, "the control")
				} else if pid != launcher[0] {
					assert.Equal(t, want, value, name)
				}
			}
		}
	}
	out, err := os.ReadFile("/proc/" + awaitRoles(t, sessionID, 2)[1] + "/cmdline")
	require.NoError(t, err)
	assert.NotContains(t, string(out), " ", "nothing is left of the place for the name")
}
