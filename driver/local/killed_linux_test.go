package local_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var everyVictim = flag.Bool("every-victim", false, "TestKilledAtEachStep kills each process at each step, not one in turn")

// The processes that take part in setting up a sandbox.
const (
	setsUp   = iota // the launcher or process 1, whichever is at the step
	launches        // the launcher
	calls           // the client
	victims
)

// setUpIsOver is what the client says in the place of a step.
const setUpIsOver = "ready"

// setUp has a client open a session and start a sandbox, and kills a victim before the step of that number; before none if
// it is negative. It returns the names of the steps that were begun.
func setUp(t *testing.T, kill, victim int) (steps []string) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := fds[0], os.NewFile(uintptr(fds[1]), "steps")
	defer unix.Close(ours)
	defer theirs.Close()
	require.NoError(t, unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	require.NoError(t, unix.SetsockoptTimeval(ours, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}))

	client := exec.Command("/proc/self/exe")
	client.Env = []string{testWorker + "=client", "SESSION=" + sessionID + "-step", "SANDBOXES=1", "STEPS=1", "TMPDIR=" + os.TempDir()}
	client.ExtraFiles = make([]*os.File, 98)
	client.ExtraFiles[97] = theirs // descriptor 100
	stdout, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	defer func() { _ = client.Process.Kill() }() // when this fails half-way
	require.NoError(t, theirs.Close())

	launcher, killed := 0, false
	for {
		name, pid := nextStep(t, ours)
		if name == "" || name == setUpIsOver {
			break
		}
		if launcher == 0 {
			launcher = pid
		}
		steps = append(steps, name)
		if len(steps)-1 == kill {
			require.NoError(t, unix.Kill([victims]int{pid, launcher, client.Process.Pid}[victim], unix.SIGKILL))
			killed = true
			break
		}
		require.NoError(t, unix.Send(ours, []byte{0}, unix.MSG_NOSIGNAL))
	}
	_ = unix.Shutdown(ours, unix.SHUT_RDWR) // what waits for an answer goes on
	if !killed {                            // asked for none, or the spare's steps came later than they did before, after the client's
		line, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		require.NoError(t, client.Process.Kill())
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); killed && err == nil && line == "ready\n" {
		// It was the step of a process 1 of no sandbox yet, which is prepared meanwhile; the client's was ready before the kill.
		require.NoError(t, client.Process.Kill())
	} else {
		assert.NotContains(t, line, "ready")
	}
	output, err := io.ReadAll(lines)
	require.NoError(t, err)
	assert.Error(t, client.Wait(), "the client ends by itself, or was killed")
	assert.NotContains(t, string(output), "ready")

	var ids []string
	for _, pid := range descendants(t) {
		ids = append(ids, fmt.Sprint(pid))
	}
	awaitDeaths(t, deathsOf(t, ids))
	return steps
}

// nextStep returns the name of a step, and the process that is at it; no name if all that could say one are dead.
func nextStep(t *testing.T, socket int) (name string, pid int) {
	data, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, rightsLen, err := 0, 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, rightsLen, _, _, err = unix.Recvmsg(socket, data, rights, unix.MSG_CMSG_CLOEXEC)
	}
	require.NoError(t, err, "neither a step nor the end of set-up in time")
	if n == 0 {
		return "", 0
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	require.NoError(t, err)
	require.Len(t, messages, 1)
	credentials, err := unix.ParseUnixCredentials(&messages[0])
	require.NoError(t, err)
	return string(data[:n]), int(credentials.Pid)
}

// Whichever process is killed, whatever set-up is at: nothing is left, and the client, if it lives, is told.
func TestKilledAtEachStep(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other programs use the common one
	before := count(t)
	var steps []string
	t.Run("none", func(t *testing.T) { steps = setUp(t, -1, 0) })
	require.Contains(t, steps, "make mounts private")
	// Of the sandbox that the launcher tries, and of the client's; among those are some of the spare's.
	const last = "filter system calls"
	tried := slices.Index(steps, last) + 1
	require.Positive(t, tried)
	made := slices.Index(steps[tried:], last) + 1
	require.Positive(t, made)
	steps = steps[:tried+made]
	require.Greater(t, len(steps), 100, "the launcher's, those of the sandbox that it tries, and the sandbox's")
	assert.Equal(t, before, count(t), "after none was killed")
	for kill, name := range steps {
		for victim := range victims {
			if *everyVictim || victim == kill%victims {
				t.Run(fmt.Sprintf("%d %s, victim %d", kill, name, victim), func(t *testing.T) { setUp(t, kill, victim) })
				after := count(t)
				for end := time.Now().Add(10 * time.Second); after != before && time.Now().Before(end); after = count(t) {
					time.Sleep(10 * time.Millisecond) // a look at all processes, some of which are being reaped, is no look at one moment
				}
				require.Equal(t, before, after, "victim %d killed before step %d, %s", victim, kill, name)
			}
		}
	}
	t.Logf("%d steps", len(steps))
}
