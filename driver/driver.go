// Package driver holds the interfaces that a backend implements, and only those.
//
// Its audience is the author of a backend: a place where sandboxes run. Users of sbx pass a [Driver] to sbx.Open and
// never call what is below it. A new driver is done when it passes the suite of driver/drivertest.
//
// The package imports the standard library only, so a driver depends on nothing else of sbx.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"
)

// ErrStopped is wrapped by every error that a [Sandbox] or [Session] returns because it was stopped or closed before.
var ErrStopped = errors.New("stopped")

// A Driver is the configuration of one backend: a value that several sessions may share. It holds no resources; those
// belong to the [Session] that Open returns. All methods may be called at the same time.
type Driver interface {
	// Name is the driver's short name in errors, logs and sandbox ids: "local".
	Name() string

	// Open begins one sbx.Session's use of the backend. It reports whether sandboxes can be made here at all, so that
	// a program fails at its start: where isolation is missing the error is an [*UnavailableError] that names the
	// remedies. ctx bounds Open only.
	Open(ctx context.Context, spec SessionSpec) (Session, error)
}

// SessionSpec is what a driver learns of the session that uses it.
type SessionSpec struct {
	// ID is unique among all sessions everywhere. Whatever a backend keeps carries it.
	ID string
	// Worker returns the path, on this machine, of the executable that serves calls in sandboxes of a platform. The driver calls it
	// within Open, for each platform that its sandboxes can have, and passes its errors on as they are. Whoever needs the
	// file after Open keeps it open, or a copy.
	Worker func(ctx context.Context, platform Platform) (path string, err error)
	// Logger takes the driver's own messages. It is never nil, and does not wait for whoever reads them.
	Logger *slog.Logger
}

// Platform is what an executable runs on, in the go command's words.
type Platform struct {
	OS, Arch string // "linux", "amd64"
	// Alone says that the executable finds no files there that it needs to start, such as the libraries of this machine: as in images.
	Alone bool
}

// Host is the platform of this program.
func Host() Platform { return Platform{OS: runtime.GOOS, Arch: runtime.GOARCH} }

// String is "linux/amd64".
func (p Platform) String() string { return p.OS + "/" + p.Arch }

// A Session is one sbx.Session's use of a driver. All methods may be called at the same time.
type Session interface {
	// Create makes a sandbox with nothing running in it. It blocks until the sandbox is usable. When ctx ends first,
	// Create leaves nothing behind and returns ctx's error. The sandbox outlives ctx. A limit that must be held and can't be is a
	// [*LimitError], here or when the worker starts. If somebody else ended the sandbox meanwhile, such as who empties its node, the
	// error, or what it wraps, has a method EndedByOthers() bool that says so: the caller makes another one then.
	Create(ctx context.Context, spec Spec) (Sandbox, error)

	// Report says what the session's sandboxes hold. It does no I/O, and answers after Close, too.
	Report() Report

	// Close stops what is left of the session's sandboxes and frees what the session holds. Create fails with
	// [ErrStopped] afterwards. It is idempotent, and a second caller waits for the first.
	Close(ctx context.Context) error
}

// Spec describes one sandbox.
type Spec struct {
	// ID is unique within the session and made of [a-z0-9-].
	ID string
	// Tags name the sandbox for its owner; a driver that lists sandboxes finds them by tag.
	Tags []string
	// Env is the whole environment of the sandbox's processes, as "KEY=VALUE". Nothing of the host's is added.
	Env []string
	// Image is what the sandbox's files come from, in the backend's own words; empty for the driver's default. A driver that has no such image, or no
	// images at all, returns an [*ImageError] here; see [NoImages].
	Image string
	// Mounts are what the sandbox shows of this machine. Their targets don't nest. A driver that can't mount one of them returns a
	// [*MountError] here; see [NoMounts].
	Mounts []Mount
	// Limits must be held: where one can't be, there is no sandbox.
	Limits Resources
	// Soft are limits that are held where that is possible; where not, [Session.Report] says why. What Limits sets counts.
	Soft Resources
}

// A Sandbox is one isolated place in which processes run. All methods may be called at the same time.
type Sandbox interface {
	// StartWorker starts the session's worker in the sandbox, once; a second call is an error. ctx bounds the start
	// only; the process outlives it.
	StartWorker(ctx context.Context, spec WorkerSpec) (Process, error)

	// Stop kills every process in the sandbox and frees what it holds. It returns when all are dead, and is
	// idempotent; a sandbox that is already gone is not an error. When ctx ends first, Stop returns its error and may
	// be called again.
	Stop(ctx context.Context) error
}

// WorkerSpec describes the worker's process.
type WorkerSpec struct {
	// Env is added to the sandbox's own environment.
	Env []string
}

// The descriptors that a worker finds open. 0 reads as empty; 1 and 2 belong to the user's code alone.
const (
	// ConnFD is the connected byte stream that carries the protocol.
	ConnFD = 3
	// HandshakeFD is the write end of a pipe. The worker writes one line there when it is ready, keeps it open, and has the
	// Go runtime print a crash there, whatever user code did to standard error.
	HandshakeFD = 4
	// LedgerFD is a file of LedgerSize zero bytes that both sides map, and in which they agree on which calls have begun and hand
	// each other the contents of long files. It should take no memory before it is written to. A driver that can't share memory with its workers leaves it closed.
	LedgerFD = 5
	// DirectFD is a connected byte stream for the protocol's frames, without what is below them on ConnFD, so that calls cost less. It
	// must be a socket of the system for the worker; what is behind it is the driver's to choose. A driver that has none leaves it closed.
	DirectFD = 6
)

// LedgerSize is the length of a ledger in bytes.
const LedgerSize = 32<<10 + 8*256<<10

// A Process is a running worker. Its streams have one reader each, which closes them.
type Process interface {
	// Conn is the other end of the worker's [ConnFD].
	Conn() net.Conn
	// Handshake is the other end of the worker's [HandshakeFD]. It ends with the worker.
	Handshake() io.ReadCloser
	// Stdout and Stderr end when no process holds the other end any more.
	Stdout() io.ReadCloser
	Stderr() io.ReadCloser

	// Ledger is the file that the worker has as [LedgerFD]; nil if it has none. Whoever started the worker closes it.
	Ledger() *os.File

	// Direct is the other end of the worker's [DirectFD]; nil if it has none.
	Direct() net.Conn

	// Wait blocks until the process has ended and says how. An error means that how it ended could not be learnt.
	// It may be called more than once.
	Wait(ctx context.Context) (Exit, error)

	// Kill ends the process, and with it the sandbox's other processes where the driver can't tell them apart. It
	// does not wait, and a process that has ended is not an error.
	Kill() error
}

// Exit says how a process ended.
type Exit struct {
	// Code is the exit code; -1 if a signal ended the process.
	Code int
	// Signal is the signal that ended the process; 0 if none did.
	Signal syscall.Signal
	// OutOfMemory says that the kernel killed the process because memory ran out, as far as the driver can tell. Signal is
	// SIGKILL then, and a driver that killed the process itself leaves this false. Where the driver sees no more than that the kernel
	// killed some process of the same group or machine at that time, it can be mistaken in both ways: a driver's own
	// documentation says where.
	OutOfMemory bool
}

// String is "exit status 1" or "signal: killed", as os/exec has it, and says so if memory ran out.
func (e Exit) String() string {
	if e.Signal != 0 {
		text := "signal: " + e.Signal.String()
		if e.OutOfMemory {
			text += " (out of memory)"
		}
		return text
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// UnavailableError says that a driver can't make sandboxes on this machine, and what would change that.
type UnavailableError struct {
	// Driver is the driver's name.
	Driver string
	// Err is what failed.
	Err error
	// Remedies are things that the user can do, each a whole phrase, the best first.
	Remedies []string
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("the %s driver can't isolate here: %v%s", e.Driver, e.Err, toGoOn(e.Remedies))
}

func (e *UnavailableError) Unwrap() error { return e.Err }
