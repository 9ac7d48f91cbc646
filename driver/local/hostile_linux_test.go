package local

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// hostile plays process 1 of a sandbox to a launcher that watches it: it sends the packets, each with the file as many
// times as files says, and, at the end, closes. The result is what the launcher told the client.
func hostile(t *testing.T, files int, packets ...[]byte) []control.Event {
	client, launcherEnd := connPair(t)
	defer client.Close()
	left, right, err := control.SocketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	ours, err := asConn(left)
	require.NoError(t, err)
	watched, err := control.Conn(right)
	require.NoError(t, err)
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
	var events []control.Event
	for {
		var e control.Event
		passed, err := control.Receive(client, &e, control.MaxEvent) // the limit that the session sets
		control.CloseAll(passed)
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

func connPair(t *testing.T) (a, b *os.File) {
	left, right, err := control.SocketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	a, err = control.Conn(left)
	require.NoError(t, err)
	b, err = control.Conn(right)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func packet(t *testing.T, e control.Event) []byte {
	data, err := json.Marshal(e)
	require.NoError(t, err)
	return data
}

// A sandbox's process 1 is believed to have started and ended once each, and at what else it sends the sandbox ends; the session, whose other
// sandboxes share the conversation, can read all that comes of it.
func TestHostileProcess1(t *testing.T) {
	started, exited := packet(t, control.Event{Kind: control.EventStarted}), packet(t, control.Event{Kind: control.EventExited, Exited: true, Exit: 7 << 8})
	ended := control.Event{Kind: control.EventEnded, Sandbox: "one", Exited: true, Exit: 7 << 8}
	begun := control.Event{Kind: control.EventStarted, Sandbox: "one"}
	for name, test := range map[string]struct {
		packets [][]byte
		want    []control.Event
	}{
		"as it should be":    {[][]byte{started, exited}, []control.Event{begun, ended}},
		"starts for ever":    {bytes.Split(bytes.Repeat(append(started, '\n'), 100), []byte{'\n'})[:100], []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"is another sandbox": {[][]byte{packet(t, control.Event{Kind: control.EventStarted, Sandbox: "two"}), packet(t, control.Event{Kind: control.EventExited, Sandbox: "two", Exited: true, Exit: 7 << 8})}, []control.Event{begun, ended}},
		"is the launcher":    {[][]byte{packet(t, control.Event{Kind: control.EventReady}), packet(t, control.Event{Kind: control.EventEnded}), exited}, []control.Event{{Kind: control.EventEnded, Sandbox: "one"}}},
		"fails after start":  {[][]byte{started, packet(t, control.Event{Kind: control.EventFailed, Step: "x", Text: "y"}), exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"ends twice":         {[][]byte{started, exited, packet(t, control.Event{Kind: control.EventExited, Exited: true})}, []control.Event{begun, ended}},
		"oversized":          {[][]byte{started, bytes.Repeat([]byte{' '}, control.MaxEvent+1), exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"not JSON":           {[][]byte{started, {'{'}, exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"of another shape":   {[][]byte{started, []byte(`{"exit":-1}`), exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"deep":               {[][]byte{started, bytes.Repeat([]byte{'['}, control.MaxEvent), exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"deep and of use":    {[][]byte{started, []byte(`{"kind":"exited","exited":true,"exit":1792,"x":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + `}`)}, []control.Event{begun, ended}},
		"too big a status":   {[][]byte{started, []byte(`{"kind":"exited","exited":true,"exit":4294967296}`), exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
		"empty":              {[][]byte{started, {}, exited}, []control.Event{begun, {Kind: control.EventEnded, Sandbox: "one"}}},
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
		assert.Equal(t, []control.Event{begun, ended}, hostile(t, 1, started, exited))
		asBefore()
		// More than a control message has room for.
		hostile(t, 2*control.MaxPassed, started, exited)
		asBefore()
		const most = 253 // of a message
		hostile(t, most, started, exited)
		asBefore()
	})
	t.Run("its text grows where it is passed on", func(t *testing.T) {
		// A raw byte of this becomes six when it is encoded.
		long := []byte(`{"kind":"failed","step":"` + strings.Repeat("<", 3<<10) + `","text":"` + strings.Repeat("<", 4<<10) + `"}`)
		require.Less(t, len(long), control.MaxEvent)
		events := hostile(t, 0, long)
		require.Len(t, events, 1)
		assert.Len(t, events[0].Text, control.MaxText)
		assert.Len(t, events[0].Step, control.MaxStep)
	})
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
