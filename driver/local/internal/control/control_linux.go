// Package control has what the processes of the local driver say to each other. Its audience is driver/local and its other internal packages.
//
// The control sockets join client and launcher, and launcher and process 1 of a sandbox (package setup, later package agent). Each message is
// one packet: JSON, at most MaxMessage bytes, with at most MaxPassed descriptors. End of file means that the other side is dead.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FD is the socket by which a re-executed program is told what to do, and by which it reports.
const FD = 3

// The bounds of messages, in bytes, and of the descriptors that come with one.
const (
	MaxMessage = 160 << 10
	MaxEvent   = 8 << 10 // an event's own limit: a launcher waits for one from each sandbox
	// MaxStep and MaxText bound what an event says of a failure, so that it fits however much of it JSON escapes.
	MaxStep   = MaxText / 4
	MaxText   = MaxEvent / 8
	MaxPassed = 6
	// sendTime bounds a send to a process that does not read.
	sendTime = 5 * time.Second
)

// Event goes from process 1 to the launcher, and from the launcher to the client.
type Event struct {
	Kind    string `json:"kind"`
	Sandbox string `json:"sandbox,omitempty"`
	// Exit is the worker's wait status, known if Exited.
	Exited bool   `json:"exited,omitempty"`
	Exit   uint32 `json:"exit,omitempty"`
	// Step is not empty if set-up failed there.
	Step  string        `json:"step,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
	Text  string        `json:"text,omitempty"`
	// Killed is whether the step failed because somebody killed the process that was to do it.
	Killed bool `json:"killed,omitempty"`
	// Limit is not empty if a limit that must be held could not be set.
	Limit string `json:"limit,omitempty"`
	// OutOfMemory is whether the kernel killed a process of the sandbox because its memory was used up, known if Counted.
	Counted     bool `json:"counted,omitempty"`
	OutOfMemory bool `json:"out_of_memory,omitempty"`
	// Unheld are the soft limits that could not be set, with the reasons.
	Unheld map[string]string `json:"unheld,omitempty"`
	// Mechanisms and Refused come with EventReady: by the limit's name, what will hold it, or why nothing does.
	Mechanisms map[string]string  `json:"mechanisms,omitempty"`
	Refused    map[string]Refusal `json:"refused,omitempty"`
}

// The kinds of events.
const (
	EventReady   = "ready"   // the launcher can make sandboxes; passes the client's folder
	EventStarted = "started" // the worker runs; from the launcher it passes a pidfd of the sandbox's process 1
	EventEnded   = "ended"   // from the launcher: every process of the sandbox is dead
	EventFailed  = "failed"  // set-up failed
	EventExited  = "exited"  // from the agent: the worker ended
)

// Placed is a mount as the launcher and process 1 know it.
type Placed struct {
	Number   int    `json:"number"`
	Target   string `json:"target"`
	Folder   bool   `json:"folder,omitempty"`
	Writable bool   `json:"writable,omitempty"`
}

// A Refusal says why a limit can't be held.
type Refusal struct {
	Why      string   `json:"why"`
	Remedies []string `json:"remedies"`
}

// Limits are those that process 1 sets.
type Limits struct {
	Processes int `json:"processes"`
	OpenFiles int `json:"open_files"`
	DiskMiB   int `json:"disk_mib"`
	Inodes    int `json:"inodes"`
}

// Preparation goes from the launcher to process 1, first: what process 1 can do before it is known what the sandbox is for.
type Preparation struct {
	Limits Limits   `json:"limits"`
	Mounts []Placed `json:"mounts,omitempty"`
	// Filter is a seccomp program, made once by the launcher, as the kernel has it.
	Filter []byte `json:"filter"`
	// Probe ends process 1 after set-up, before any worker.
	Probe bool `json:"probe,omitempty"`
}

// Orders follow, with the worker's descriptors: conn, handshake, stdout, stderr, direct, ledger.
type Orders struct {
	// Name shows in the host's list of processes.
	Name string `json:"name"`
	Env  []byte `json:"env"`
}

// Failure is the event of a step of set-up that failed.
func Failure(sandbox, step string, err error) Event {
	e := Event{Kind: EventFailed, Sandbox: sandbox, Step: step, Text: err.Error()}
	e.Errno, _ = errors.AsType[syscall.Errno](err)
	e.Text = Clip(e.Text, MaxText)
	e.Killed = errors.Is(err, ErrKilled)
	return e
}

// ErrKilled says that somebody killed a process of the driver's own, which says nothing of what the machine can do.
var ErrKilled = errors.New("something killed it")

// Err is why it failed: the kernel's error itself if that is all, or one that wraps it, or ErrKilled.
func (e Event) Err() error {
	switch {
	case e.Killed:
		return &wrapper{e.Text, ErrKilled}
	case e.Errno == 0:
		return errors.New(e.Text)
	case e.Text == e.Errno.Error():
		return e.Errno
	}
	return &wrapper{e.Text, e.Errno}
}

type wrapper struct {
	text  string // with that of cause
	cause error
}

func (e *wrapper) Error() string { return e.text }
func (e *wrapper) Unwrap() error { return e.cause }

// Clip returns the beginning of text, of at most so many bytes.
func Clip(text string, most int) string { return text[:min(len(text), most)] }

// SocketPair returns the two ends of a control socket, close-on-exec.
func SocketPair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// Conn makes file, a control socket, one whose reads and writes others can end, and closes file. It is not a connection of package net, which is
// initialised late (package setup says what of it).
func Conn(file *os.File) (*os.File, error) {
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, FD)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	conn := os.NewFile(uintptr(fd), file.Name())
	if err := conn.SetDeadline(time.Time{}); err != nil { // package os keeps to itself that it can't be polled
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// Send writes one message. Concurrent calls are fine: packets don't mix.
func Send(conn *os.File, message any, files ...int) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > MaxMessage {
		return fmt.Errorf("control message of %d bytes, at most %d fit", len(data), MaxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	// The other side reads at once, unless something has stopped it. Process 1, whose socket can't be polled, waits for that.
	if err := conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return closed(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	waitErr := raw.Write(func(fd uintptr) bool {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Sendmsg(int(fd), data, rights, nil, unix.MSG_NOSIGNAL)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return closed(waitErr)
	}
	return os.NewSyscallError("sendmsg", err)
}

// Receive reads one message into message and returns the descriptors that came with it, close-on-exec; the caller
// closes them. A message longer than limit is an error; fewer descriptors than were sent, which is what happens when
// this process has no more to give, are the caller's to notice. It returns io.EOF when the other side is gone.
func Receive(conn *os.File, message any, limit int) ([]int, error) {
	size, err := nextSize(conn)
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(size, limit)+1) // the greatest are rare, and memory that is new to a process costs time
	rights := make([]byte, unix.CmsgSpace(4*MaxPassed))
	var n, rightsLen, flags int
	err = read(conn, func(fd int) (err error) {
		n, rightsLen, flags, _, err = unix.Recvmsg(fd, data, rights, unix.MSG_CMSG_CLOEXEC)
		return err
	})
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
		CloseAll(files)
		return nil, err
	}
	return files, nil
}

// CloseWrite tells the other side that nothing more is sent.
func CloseWrite(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); controlErr != nil {
		return closed(controlErr)
	}
	return os.NewSyscallError("shutdown", err)
}

// nextSize waits for a message and returns its size; 0 if the other side is gone.
func nextSize(conn *os.File) (size int, err error) {
	err = read(conn, func(fd int) (err error) {
		size, _, err = unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		return err
	})
	return size, err
}

// read has do receive something, and waits until there is something.
func read(conn *os.File, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		// ECONNRESET comes once, if the other side died with messages unread. What it sent before comes after that.
		for err = unix.EINTR; errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNRESET); {
			err = do(int(fd))
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return closed(waitErr)
	}
	return os.NewSyscallError("recvmsg", err)
}

// closed is why a socket could not be waited for: after its end in this process, package os has an error that only it knows.
func closed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return os.ErrClosed
}

// JoinEnv packs an environment for a message: each entry is ended by a zero byte, for values need not be text.
func JoinEnv(env []string) []byte {
	var packed []byte
	for _, entry := range env {
		packed = append(append(packed, entry...), 0)
	}
	return packed
}

// UnpackEnv is the opposite of [JoinEnv].
func UnpackEnv(packed []byte) []string {
	env := strings.Split(string(packed), "\x00")
	return env[:len(env)-1]
}

// CloseOnExec keeps every descriptor but the standard three out of the programs that this process executes, whoever opened it.
func CloseOnExec() error {
	if err := unix.CloseRange(FD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	return nil
}

// CloseAll closes descriptors, on the way out of something that failed or that passed them on.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
