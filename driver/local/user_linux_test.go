package local_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// innerRoot are the attributes of a process that is root in a user namespace, and outside of it the user with the ids.
func innerRoot(uid, gid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
}

// number is one of the numbers that the kernel tells of a process.
func number(t *testing.T, pid int, name string, base int) uint64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(status), "\n"+name+":")
	require.True(t, found)
	n, err := strconv.ParseUint(strings.Fields(after)[0], base, 64)
	require.NoError(t, err)
	return n
}

// users are the users of a session's launcher and of its sandboxes.
func users(t *testing.T, fds map[string]int) map[uint64]int {
	found := map[uint64]int{}
	for id := range fds {
		pid, err := strconv.Atoi(id)
		require.NoError(t, err)
		found[number(t, pid, "Uid", 10)]++
	}
	return found
}

func end(t *testing.T, client *exec.Cmd, fds map[string]int) {
	require.NoError(t, client.Process.Kill())
	assert.Error(t, client.Wait())
	awaitDeaths(t, fds)
}

// Root of a user namespace, as in a container, has no user ids to give to sandboxes. They are that root's, then, as an ordinary
// user's are that user's.
func TestRootOfAUserNamespace(t *testing.T) {
	client := exec.Command("/proc/self/exe")
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	client.SysProcAttr = innerRoot(uid, gid)
	fds := clientWithSandboxes(t, client, sessionID+"-inner-root")
	assert.Equal(t, map[uint64]int{uint64(uid): 3}, users(t, fds))
	end(t, client, fds)
}

// The kernel limits no processes that are the machine's root's, so sandboxes must not be.
func TestRootWithoutOtherIDs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, inside := range []int{0, 1000} {
		client := exec.Command("/proc/self/exe")
		client.Env = []string{testWorker + "=client", "SESSION=" + sessionID + "-alone", "SANDBOXES=1"}
		client.SysProcAttr = innerRoot(0, 0)
		client.SysProcAttr.Credential = nil
		client.SysProcAttr.UidMappings[0].ContainerID = inside
		out, err := client.Output()
		assert.Error(t, err)
		assert.Contains(t, string(out), "root may give no user ids to sandboxes")
		assert.Contains(t, string(out), "run this program as another user")
	}
}

// Root without the capability to make namespaces, as in Docker's containers, makes them as an ordinary user does, and still gives
// sandboxes ids of their own.
func TestRootWithoutCapability(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	client := exec.Command("/proc/self/exe")
	var fds map[string]int
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this
		if assert.NoError(t, unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0)) {
			fds = clientWithSandboxes(t, client, sessionID+"-powerless-root") //nolint:testifylint // should it fail, there are none
		}
	}()
	<-done
	require.NotEmpty(t, fds)
	assert.Zero(t, number(t, client.Process.Pid, "CapEff", 16)&(1<<unix.CAP_SYS_ADMIN), "the control")
	found := users(t, fds)
	assert.Len(t, found, 3, "each another: %v", found)
	assert.Equal(t, 1, found[0], "the launcher's")
	end(t, client, fds)
}

// What root's groups may do is nothing for sandboxes, which could not drop them.
func TestSandboxesHaveNoneOfRootsGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	client := exec.Command("/proc/self/exe")
	client.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4, 5}}}
	groups := func(pid string) []string {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		require.NoError(t, err)
		_, after, found := strings.Cut(string(status), "\nGroups:")
		require.True(t, found)
		line, _, _ := strings.Cut(after, "\n")
		return strings.Fields(line)
	}
	fds := clientWithSandboxes(t, client, sessionID+"-groups")
	assert.Equal(t, []string{"4", "5"}, groups(strconv.Itoa(client.Process.Pid)), "the control")
	for pid := range fds {
		assert.Empty(t, groups(pid))
	}
	end(t, client, fds)
}
