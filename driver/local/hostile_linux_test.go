package local

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// hostile plays process 1 of a sandbox to a launcher that watches it: it sends the packets, each with the file as many
// times as files says, and, at the end, closes. The result is what the launcher told the client.
func hostile(t *testing.T, files int, packets ...[]byte) []event {
	client, launcherEnd := connPair(t)
	defer client.Close()
	ours, watched := connPair(t)
	pid, pidfd := sleeper(t)

	l := &launcher{client: launcherEnd, sandboxes: map[string]*launched{}}
	sandbox := &launched{id: "one", pid: pid}
	l.sandboxes["one"] = sandbox
	go func() {
		for _, packet := range packets {
			var rights []byte
			for range files {
				rights = append(rights, unix.UnixRights(int(os.Stdin.Fd()))...)
			}
			_ = ours.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, _, err := ours.WriteMsgUnix(packet, rights, nil); err != nil {
				break // the launcher has had enough
			}
		}
		_ = ours.Close()
	}()
	l.watch(sandbox, pid, pidfd, watched, nil, nil)
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process 1 is dead")
	assert.Empty(t, l.sandboxes)

	require.NoError(t, launcherEnd.Close())
	var events []event
	for {
		var e event
		passed, err := receive(client, &e, maxEvent) // the limit that the session sets
		closeAll(passed)
		if err != nil {
			require.ErrorContains(t, err, "EOF")
			return events
		}
		events = append(events, e)
	}
}

func sleeper(t *testing.T) (pid, pidfd int) {
	pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "1000"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
	require.NoError(t, err)
	return pid, pidfd
}

func connPair(t *testing.T) (a, b *net.UnixConn) {
	left, right, err := socketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	a, err = asConn(left)
	require.NoError(t, err)
	b, err = asConn(right)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func packet(t *testing.T, e event) []byte {
	data, err := json.Marshal(e)
	require.NoError(t, err)
	return data
}

// A sandbox's process 1 is believed to have started and ended once each, and at what else it sends the sandbox ends; the session, whose other
// sandboxes share the conversation, can read all that comes of it.
func TestHostileProcess1(t *testing.T) {
	started, exited := packet(t, event{Kind: eventStarted}), packet(t, event{Kind: eventExited, Exited: true, Exit: 7 << 8})
	ended := event{Kind: eventEnded, Sandbox: "one", Exited: true, Exit: 7 << 8}
	begun := event{Kind: eventStarted, Sandbox: "one"}
	for name, test := range map[string]struct {
		packets [][]byte
		want    []event
	}{
		"as it should be":    {[][]byte{started, exited}, []event{begun, ended}},
		"starts for ever":    {bytes.Split(bytes.Repeat(append(started, '\n'), 100), []byte{'\n'})[:100], []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"is another sandbox": {[][]byte{packet(t, event{Kind: eventStarted, Sandbox: "two"}), packet(t, event{Kind: eventExited, Sandbox: "two", Exited: true, Exit: 7 << 8})}, []event{begun, ended}},
		"is the launcher":    {[][]byte{packet(t, event{Kind: eventReady}), packet(t, event{Kind: eventEnded}), exited}, []event{{Kind: eventEnded, Sandbox: "one"}}},
		"fails after start":  {[][]byte{started, packet(t, event{Kind: eventFailed, Step: "x", Text: "y"}), exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"ends twice":         {[][]byte{started, exited, packet(t, event{Kind: eventExited, Exited: true})}, []event{begun, ended}},
		"oversized":          {[][]byte{started, bytes.Repeat([]byte{' '}, maxEvent+1), exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"not JSON":           {[][]byte{started, {'{'}, exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"of another shape":   {[][]byte{started, []byte(`{"exit":-1}`), exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"deep":               {[][]byte{started, bytes.Repeat([]byte{'['}, maxEvent), exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"deep and of use":    {[][]byte{started, []byte(`{"kind":"exited","exited":true,"exit":1792,"x":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + `}`)}, []event{begun, ended}},
		"too big a status":   {[][]byte{started, []byte(`{"kind":"exited","exited":true,"exit":4294967296}`), exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
		"empty":              {[][]byte{started, {}, exited}, []event{begun, {Kind: eventEnded, Sandbox: "one"}}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, hostile(t, 0, test.packets...))
		})
	}
	t.Run("passes descriptors", func(t *testing.T) {
		before := descriptors(t)
		// The runtime opens one now and then, for a moment.
		asBefore := func() {
			assert.Eventually(t, func() bool { return descriptors(t) <= before }, 10*time.Second, time.Millisecond, "%d descriptors", before)
		}
		assert.Equal(t, []event{begun, ended}, hostile(t, 1, started, exited))
		asBefore()
		// More than a control message has room for.
		hostile(t, 2*maxPassed, started, exited)
		asBefore()
		const most = 253 // of a message
		hostile(t, most, started, exited)
		asBefore()
	})
	t.Run("its text grows where it is passed on", func(t *testing.T) {
		// A raw byte of this becomes six when it is encoded.
		long := []byte(`{"kind":"failed","step":"` + strings.Repeat("<", 3<<10) + `","text":"` + strings.Repeat("<", 4<<10) + `"}`)
		require.Less(t, len(long), maxEvent)
		events := hostile(t, 0, long)
		require.Len(t, events, 1)
		assert.Len(t, events[0].Text, maxText)
		assert.Len(t, events[0].Step, maxStep)
	})
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
