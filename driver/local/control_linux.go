package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// The control sockets join client and launcher, and launcher and init (later agent). Each message is one packet: JSON,
// at most maxMessage bytes, with at most maxPassed descriptors. End of file means that the other side is dead.

const (
	maxMessage = 160 << 10
	maxEvent   = 8 << 10 // an event's own limit: a launcher waits for one from each sandbox
	// maxStep and maxText bound what an event says of a failure, so that it fits however much of it JSON escapes.
	maxStep   = maxText / 4
	maxText   = maxEvent / 8
	maxPassed = 6
	// sendTime bounds a send to a process that does not read.
	sendTime = 5 * time.Second
	// maxEnv bounds a worker's whole environment, so that its base64 fits into a message.
	maxEnv = 96 << 10
)

// request goes from the client to the launcher.
type request struct {
	Op      string `json:"op"`
	Sandbox string `json:"sandbox,omitempty"`
	// Env is the worker's environment, each entry ended by a zero byte; values need not be text.
	Env []byte `json:"env,omitempty"`
	// Limits must be held; Soft are tried.
	Limits driver.Resources `json:"limits,omitzero"`
	Soft   driver.Resources `json:"soft,omitzero"`
	// Mounts are the sandbox's; with opMount, the one that is passed.
	Mounts []placed `json:"mounts,omitempty"`
	// These come with opOpen; Defaults are for all that Limits and Soft don't set, Runsc is the path of gVisor's program, if
	// it is to be used, OwnIDs is as in launcher, and HandedOver what the function says.
	Session  string           `json:"session,omitempty"`
	Defaults driver.Resources `json:"defaults,omitzero"`
	Runsc    string           `json:"runsc,omitempty"`
	OwnIDs   bool             `json:"own_ids,omitempty"`

	HandedOver bool `json:"handed_over,omitempty"`
}

const (
	opOpen  = "open"  // once, first; passes the program and the worker
	opStart = "start" // passes the worker's descriptors 3, 4, 1 and 2
	opKill  = "kill"
	opMount = "mount" // passes a detached mount
)

// event goes from init and agent to the launcher, and from the launcher to the client.
type event struct {
	Kind    string `json:"kind"`
	Sandbox string `json:"sandbox,omitempty"`
	// Exit is the worker's wait status, known if Exited.
	Exited bool   `json:"exited,omitempty"`
	Exit   uint32 `json:"exit,omitempty"`
	// Step is not empty if set-up failed there.
	Step  string        `json:"step,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
	Text  string        `json:"text,omitempty"`
	// Limit is not empty if a limit that must be held could not be set.
	Limit string `json:"limit,omitempty"`
	// OutOfMemory is whether the kernel killed a process of the sandbox because its memory was used up, known if Counted.
	Counted     bool `json:"counted,omitempty"`
	OutOfMemory bool `json:"out_of_memory,omitempty"`
	// Unheld are the soft limits that could not be set, with the reasons.
	Unheld map[string]string `json:"unheld,omitempty"`
	// Mechanisms and Refused come with eventReady: by the limit's name, what will hold it, or why nothing does.
	Mechanisms map[string]string  `json:"mechanisms,omitempty"`
	Refused    map[string]refusal `json:"refused,omitempty"`
}

const (
	eventReady   = "ready"   // the launcher can make sandboxes; passes the client's folder
	eventStarted = "started" // the worker runs; from the launcher it passes a pidfd of the sandbox's process 1
	eventEnded   = "ended"   // from the launcher: every process of the sandbox is dead
	eventFailed  = "failed"  // set-up failed
	eventExited  = "exited"  // from the agent: the worker ended
)

// preparation goes from the launcher to init, first: what init can do before it is known what the sandbox is for.
type preparation struct {
	Resources driver.Resources `json:"resources"`
	Mounts    []placed         `json:"mounts,omitempty"`
	// Filter is a seccomp program, made once by the launcher, as the kernel has it.
	Filter []byte `json:"filter"`
	// Probe ends init after set-up, before any worker.
	Probe bool `json:"probe,omitempty"`
	// GVisor has init become gVisor, whose exit status is the worker's.
	GVisor bool `json:"gvisor,omitempty"`
}

// orders follow, with the worker's descriptors: conn, handshake, stdout, stderr, direct, ledger.
type orders struct {
	// Name shows in the host's list of processes.
	Name string `json:"name"`
	Env  []byte `json:"env"`
}

func failure(sandbox, step string, err error) event {
	e := event{Kind: eventFailed, Sandbox: sandbox, Step: step, Text: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno.Error() == e.Text {
		e.Errno = errno
	}
	e.Text = clip(e.Text, maxText)
	return e
}

func clip(text string, most int) string { return text[:min(len(text), most)] }

// err is the failure that the event reports.
func (e event) err() error {
	if e.Errno != 0 {
		return &SetupError{Sandbox: e.Sandbox, Step: e.Step, Err: e.Errno}
	}
	return &SetupError{Sandbox: e.Sandbox, Step: e.Step, Err: errors.New(e.Text)}
}

// socketPair returns the two ends of a control socket, close-on-exec.
func socketPair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// asConn turns file into a connection of the network poller and closes file.
func asConn(file *os.File) (*net.UnixConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("control descriptor is a %T, not a unix socket", conn)
	}
	return unixConn, nil
}

// send writes one message. Concurrent calls are fine: packets don't mix.
func send(conn *net.UnixConn, message any, files ...int) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("control message of %d bytes, at most %d fit", len(data), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	// The other side reads at once, unless something has stopped it.
	if err := conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// receive reads one message into message and returns the descriptors that came with it, close-on-exec; the caller
// closes them. A message longer than limit is an error; fewer descriptors than were sent, which is what happens when
// this process has no more to give, are the caller's to notice. It returns io.EOF when the other side is gone.
func receive(conn *net.UnixConn, message any, limit int) ([]int, error) {
	size, err := nextSize(conn)
	if errors.Is(err, syscall.ECONNRESET) { // the other side died with messages unread; what it sent before comes after this
		size, err = nextSize(conn)
	}
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(size, limit)+1) // the greatest are rare, and memory that is new to a process costs time
	rights := make([]byte, unix.CmsgSpace(4*maxPassed))
	n, rightsLen, flags, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, err
	}
	var files []int
	if rightsLen > 0 {
		messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
		if err != nil {
			return nil, err
		}
		for i := range messages {
			if passed, err := unix.ParseUnixRights(&messages[i]); err == nil {
				files = append(files, passed...)
			}
		}
	}
	switch {
	case n == 0 && len(files) == 0:
		return nil, io.EOF
	case flags&unix.MSG_TRUNC != 0 || n > limit:
		err = errors.New("control message was truncated")
	default:
		err = json.Unmarshal(data[:n], message)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

// nextSize waits for a message and returns its size; 0 if the other side is gone.
func nextSize(conn *net.UnixConn) (size int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		size, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return size, os.NewSyscallError("recvfrom", err)
}

// packEnv checks env and packs it for a message.
func packEnv(env []string) ([]byte, error) {
	for _, entry := range env {
		if name, _, found := strings.Cut(entry, "="); !found || name == "" || strings.ContainsRune(entry, 0) {
			return nil, fmt.Errorf("environment entry %q: want KEY=VALUE without zero bytes", entry)
		}
	}
	packed := joinEnv(env)
	if len(packed) > maxEnv {
		return nil, fmt.Errorf("its environment has %d bytes, of which %d fit; give long values as files (sbx.Mount, Sandbox.WriteFile)", len(packed), maxEnv)
	}
	return packed, nil
}

// joinEnv is the opposite of unpackEnv.
func joinEnv(env []string) []byte {
	var packed []byte
	for _, entry := range env {
		packed = append(append(packed, entry...), 0)
	}
	return packed
}

func unpackEnv(packed []byte) []string {
	env := strings.Split(string(packed), "\x00")
	return env[:len(env)-1]
}
