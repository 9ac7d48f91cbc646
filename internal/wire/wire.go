// Package wire is the protocol between a session and a worker: what both sides must agree on, and the connection that
// frames messages. Its audience is package sbx (through package launch) and package worker.
//
// The messages are described in wirepb/wire.proto. A [Conn] starts one goroutine, which [Conn.Close] ends.
package wire

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-plugin"
)

// Limits of the protocol. Both sides hold them, so neither can make the other allocate without bound.
const (
	// MaxFrame is the most bytes that one gRPC message may have.
	MaxFrame = 4 << 20
	// MaxValue is the most bytes that one encoded argument or result may have.
	MaxValue = 1 << 30
	// MaxSandboxMessage is the most bytes that one message from the service for commands and files may have.
	MaxSandboxMessage = 512 << 10
	// Window is how many bytes of each stream may be on their way to a reader that does not take them. A fixed one bounds what a worker can have the session keep.
	Window = 1 << 20
	// WriteBuffer is how much gRPC writes at a time; it has a buffer only while it does.
	WriteBuffer = 128 << 10
	// chunkSize is the length of a piece of a big value. One big value delays a small message by at most one piece.
	chunkSize = 256 << 10
	// maxInline is the longest value that travels within its message.
	maxInline = 64 << 10
	// MaxCallStack is the most bytes that the stack of a call may have which the session asks for. It never comes in chunks.
	MaxCallStack = maxInline
	// frameTarget is the length after which a frame takes no further message.
	frameTarget = 1 << 20
	// maxOffered is how many bytes of messages may wait that can be dropped. Each counts as offeredSize more than its text, about
	// what it takes in memory.
	maxOffered  = 1 << 20
	offeredSize = 256
	// maxStreams is how many chunked values may be under way in one direction.
	maxStreams = 1024
)

// Grace is how long a function may take to return after its context has ended.
const Grace = time.Second

// Version is the protocol's version, which go-plugin negotiates.
const Version = 1

// PluginName is the name under which go-plugin dispenses the worker.
const PluginName = "worker"

// Handshake is what go-plugin's two sides compare. The cookie tells a worker from a program started by hand; it protects
// nothing.
var Handshake = plugin.HandshakeConfig{
	MagicCookieKey:   "SBX_WORKER_COOKIE",
	MagicCookieValue: "sbx",
}

// BootVariable is the environment variable that makes a program a worker. Its value is a [Boot]; package worker removes
// it before user code that runs after package worker's init could see it.
const BootVariable = "SBX_WORKER"

// What a worker writes on its handshake descriptor before it exits by its own decision, so that this can be told from user
// code that exits.
const (
	StreamEnded  = "sbx: the stream has ended\n"
	LeaseEnded   = "sbx: the session gave no sign of life\n"
	FunctionHeld = "sbx: a function did not return\n" // although its context had ended
)

// CoverageMark is what a worker writes on its handshake descriptor before its coverage, the last thing that it writes: one file
// of counters, as the Go runtime makes them.
const CoverageMark = "\nsbx: coverage\n"

// Boot is what a worker must know before its stream opens.
type Boot struct {
	// Divert is the number of the call of worker.Divert at which the program becomes a worker.
	Divert int `json:"divert"`
	// Plugin is the environment that go-plugin's server reads.
	Plugin []string `json:"plugin"`
	// Coverage says that the session wants to know which lines ran.
	Coverage bool `json:"coverage,omitempty"`
	// Test says so of a test binary, whose coverage is written only if it comes to its main function.
	Test bool `json:"test,omitempty"`
}

// Encode returns b as the value of [BootVariable].
func (b Boot) Encode() string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and an int can be encoded
	}
	return string(text)
}

// DecodeBoot reverses [Boot.Encode].
func DecodeBoot(value string) (Boot, error) {
	var b Boot
	if err := json.Unmarshal([]byte(value), &b); err != nil {
		return Boot{}, fmt.Errorf("%s: %w", BootVariable, err)
	}
	return b, nil
}

// SocketFolder returns the first of folders in which a socket can be made; the last if there is none. go-plugin insists on
// a place for sockets in the worker, too, and a full or missing TMPDIR, or one with a long name, is no reason to fail.
func SocketFolder(folders ...string) string {
	for _, folder := range folders {
		path := filepath.Join(folder, fmt.Sprintf("sbx%d", rand.Uint64()))
		if listener, err := net.Listen("unix", path); err == nil {
			_ = listener.Close() // which removes it
			return folder
		}
	}
	return folders[len(folders)-1]
}

// ModuleVersion is the version of this module in the running program, "(devel)" in a checkout.
func ModuleVersion() string {
	module := strings.TrimSuffix(reflect.TypeFor[Boot]().PkgPath(), "/internal/wire")
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	if info.Main.Path == module {
		return "(devel)"
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return "(unknown)"
}
