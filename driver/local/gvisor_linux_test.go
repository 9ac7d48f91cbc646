package local_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/local/escape"
)

// These need gVisor's runsc on PATH: make test-gvisor builds it.
func needRunsc(t *testing.T) {
	usage, err := exec.Command("runsc", "help", "run").CombinedOutput()
	if err != nil || !strings.Contains(string(usage), "pass-fd") {
		t.Skip("there is no runsc on PATH that is new enough")
	}
}

var inGVisor = local.New(&local.Options{GVisor: true})

func TestGVisor(t *testing.T) {
	needRunsc(t)
	drivertest.Run(t, inGVisor, drivertest.Features{Processes: true, Isolation: true, Mounts: true})
}

// runscs are the processes of a session's sandboxes.
func runscs(t *testing.T, session string) []string {
	var found []string
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		if strings.Contains(string(line), "\x00"+session+"_") {
			found = append(found, strings.Split(path, "/")[2])
		}
	}
	return found
}

func TestGVisorLeavesNothing(t *testing.T) {
	needRunsc(t)
	for name, end := range map[string]func(driver.Session, driver.Sandbox, int) error{
		"stop":  func(_ driver.Session, sandbox driver.Sandbox, _ int) error { return sandbox.Stop(testContext(t)) },
		"close": func(session driver.Session, _ driver.Sandbox, _ int) error { return session.Close(testContext(t)) },
		"kill the launcher": func(_ driver.Session, _ driver.Sandbox, fd int) error {
			return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			session, err := inGVisor.Open(testContext(t), spec(t))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
			launcher := roles(t, sessionID)
			require.Len(t, launcher, 1)
			fd := deathsOf(t, launcher)[launcher[0]]
			sandbox, p := start(t, session, "one", "family")
			awaitReady(t, p)
			fds := deathsOf(t, runscs(t, sessionID))
			require.GreaterOrEqual(t, len(fds), 2, "gVisor's kernel and what starts it")
			require.NoError(t, end(session, sandbox, fd))
			awaitDeaths(t, fds)
			_, _ = io.ReadAll(p.Stdout())
		})
	}
}

// What the report says to be held is, and the rest is refused.
func TestGVisorLimits(t *testing.T) {
	needRunsc(t)
	s := spec(t)
	s.ID += "-gvisor"
	session, err := inGVisor.Open(testContext(t), s)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })

	t.Run("memory", func(t *testing.T) {
		limit := driver.Resources{MemoryMiB: 128}
		needs(t, session, driver.LimitMemory, limit)
		out, exit := printed(t, session, "control", driver.Resources{}, "memory", "CODE=300")
		assert.Equal(t, "used 300\n", out)
		assert.Equal(t, driver.Exit{}, exit)
		out, exit = printed(t, session, "within", limit, "memory", "CODE=40")
		assert.Equal(t, "used 40\n", out)
		assert.Equal(t, driver.Exit{}, exit)
		for id, env := range map[string][]string{"beyond": {testWorker + "=memory", "CODE=300"}, "files": {testWorker + "=fill", "CODE=MiB", "FOLDER=/tmp"}} {
			out, exit = printed(t, session, id, limit, strings.TrimPrefix(env[0], testWorker+"="), env[1:]...)
			assert.Empty(t, out)
			assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}, exit, id)
		}
		out, _ = printed(t, session, "told", limit, "limits")
		assert.Contains(t, out, fmt.Sprintf(" GOMEMLIMIT=%dKiB", (128-gvisorMiB)*1024/10*9), "gVisor's kernel needs some")
	})
	t.Run("CPUs", func(t *testing.T) {
		limit := driver.Resources{CPUs: 0.1}
		needs(t, session, driver.LimitCPUs, limit)
		times, _ := throttled(t, session, s.ID, "control", driver.Resources{CPUs: 64})
		assert.Zero(t, times, "the control")
		times, _ = throttled(t, session, s.ID, "limited", limit) // how much it had gVisor's clocks don't tell
		assert.Greater(t, times, 3)
	})
	for _, test := range []struct {
		what, folder string
		limits       driver.Resources
		want         string
	}{
		{"descriptors", "", driver.Resources{OpenFiles: 100}, "too many open files"},
		{"MiB", "/work", driver.Resources{DiskMiB: 10}, "10 no space left on device\n"},
		{"MiB", "/tmp", driver.Resources{DiskMiB: 10}, "10 no space left on device\n"},
		{"MiB", "/dev/shm", driver.Resources{DiskMiB: 10}, "10 no space left on device\n"},
	} {
		t.Run(test.what+test.folder, func(t *testing.T) {
			var n int
			control, _ := printed(t, session, "control", driver.Resources{}, "fill", "CODE="+test.what, "FOLDER="+test.folder)
			_, err := fmt.Sscan(control, &n)
			require.NoError(t, err, control)
			assert.GreaterOrEqual(t, n, 60, "the control: %s", control)
			out, _ := printed(t, session, "limited", test.limits, "fill", "CODE="+test.what, "FOLDER="+test.folder)
			assert.Contains(t, out, test.want)
		})
	}
	// Not counted by gVisor; but what it takes of the host for them is bounded.
	for limit, ask := range map[string]driver.Resources{driver.LimitProcesses: {Processes: 100}, driver.LimitInodes: {Inodes: 100}} {
		_, err := session.Create(testContext(t), driver.Spec{ID: limit, Limits: ask})
		refusal, ok := errors.AsType[*driver.LimitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, limit, refusal.Limit)
	}
	var own syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(unix.RLIMIT_NPROC, &own))
	if own.Max <= gvisorTasks {
		t.Skipf("no control: this program's own limit of processes is %d", own.Max)
	}
	p, err := begin(t, session, "bounded", driver.Resources{}, "echo")
	require.NoError(t, err)
	awaitReady(t, p)
	found := 0
	for _, pid := range runscs(t, s.ID) {
		limits, err := os.ReadFile("/proc/" + pid + "/limits")
		if err != nil {
			continue // it came and went
		}
		found++
		assert.Regexp(t, fmt.Sprintf(`Max processes +%d +%[1]d `, gvisorTasks), string(limits))
	}
	assert.GreaterOrEqual(t, found, 2)
}

const (
	// gvisorMiB is what is left to gVisor of a sandbox's memory.
	gvisorMiB = 24
	// gvisorTasks is how many processes and threads of the host a sandbox has at most.
	gvisorTasks = 8192
)

func TestGVisorThatIsNotThere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := inGVisor.Open(testContext(t), spec(t))
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	assert.ErrorContains(t, err, "install it")
	assert.ErrorContains(t, err, "leave Options.GVisor out")
	assert.NotContains(t, err.Error(), "driver/process", "which nobody wants who asks for more isolation")

	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("PATH"), "runsc"), []byte("#!/bin/false\n"), 0o755))
	_, err = inGVisor.Open(testContext(t), spec(t))
	require.ErrorAs(t, err, &unavailable)
	assert.ErrorContains(t, err, "runsc")
}

// The attempts of TestEscape, at gVisor's kernel. Two are left out, of which one ends the sandbox and the other takes long.
func TestGVisorEscape(t *testing.T) {
	needRunsc(t)
	inside, _, _ := attempt(t, local.New(&local.Options{GVisor: true, ScratchMiB: scratchMiB}), func(targets *escape.Targets) {
		targets.Init = targets.HostPID // process 1 is the worker
	}, "process bomb", "thread bomb")
	held(t, inside, unheldInGVisor, `"%s"`)
}

const gvisorsOwn = "it is gVisor's kernel's, and nobody else's"

// unheldInGVisor are the attempts that succeed there. docs/security.md says the same.
var unheldInGVisor = map[string]string{
	"read process 1's program":                   "gVisor executes what it can read",
	"have a mount that honours setuid":           "no_new_privs holds",
	"have a writable mount that honours devices": "no process may make one",
	"watch the use of host files":                gvisorsOwn,
	"lock a host file":                           gvisorsOwn,
	"escape the OOM killer":                      gvisorsOwn,
	"execute from memory":                        "a worker may execute what it likes",
	"list /sys":                                  gvisorsOwn,
	"raise the priority":                         gvisorsOwn,
	"read the boot parameters":                   gvisorsOwn,
	"descriptors in flight":                      "it is memory",
	"inode bomb":                                 "it is memory",
	"pipe bomb":                                  "it is memory",
	"terminal bomb":                              "it is memory",
	"message queue bomb":                         "it is memory",
	"memory bomb":                                "memory is not limited",
}

func TestGVisorTerminal(t *testing.T) {
	needRunsc(t)
	session, err := inGVisor.Open(testContext(t), spec(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
	_, p := start(t, session, "one", "terminal")
	stdout, stderr, exit := output(t, p)
	assert.Equal(t, terminalOutput, stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, driver.Exit{}, exit)
}
