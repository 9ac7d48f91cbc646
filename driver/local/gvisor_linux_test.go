package local_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	drivertest.Run(t, inGVisor, drivertest.Features{Processes: true, Isolation: true})
}

// runscs are the processes of a session's sandboxes.
func runscs(t *testing.T) []string {
	var found []string
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		if strings.Contains(string(line), "\x00"+sessionID+"_") {
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
			fds := deathsOf(t, runscs(t))
			require.GreaterOrEqual(t, len(fds), 2, "gVisor's kernel and what starts it")
			require.NoError(t, end(session, sandbox, fd))
			awaitDeaths(t, fds)
			_, _ = io.ReadAll(p.Stdout())
		})
	}
}

func TestGVisorThatIsNotThere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := inGVisor.Open(testContext(t), spec(t))
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	assert.ErrorContains(t, err, "install it")

	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("PATH"), "runsc"), []byte("#!/bin/false\n"), 0o755))
	_, err = inGVisor.Open(testContext(t), spec(t))
	require.ErrorAs(t, err, &unavailable)
	assert.ErrorContains(t, err, "runsc")
}

func TestGVisorEscape(t *testing.T) {
	needRunsc(t)
	inside, _, _ := attempt(t, local.New(&local.Options{GVisor: true, ScratchMiB: scratchMiB}), func(targets *escape.Targets) {
		targets.Init = targets.HostPID // process 1 is the worker
	})
	held(t, inside, unheldInGVisor, `"%s" is open in gVisor`)
}

var unheldInGVisor = map[string]string{}
