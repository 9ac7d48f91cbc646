// Package agent is the first process of a container or pod, which starts the worker there, reaps what it leaves, and tells how it ended.
// Its audience is package worker, which links it into every program, and package remote, which is the driver's side.
//
// The agent is the worker's own file, started with [Variable] in its environment: importing this package turns such a program into the
// agent, before its main and most of its init functions, and for good. (Packages that are initialised before this one run their
// init functions in the agent, too; what they print goes to its standard error.) The agent reaches the driver in one of three ways:
//
//   - By a Unix socket in a folder of the driver's machine that the container shows. The driver listens and the agent dials, never the
//     other way round: what a container has at a path is its own to choose, and could be a link to the socket of somebody else. The
//     driver passes the worker's descriptors, so that afterwards nothing stands between session and worker.
//
//   - By its standard input and output, which whoever runs the container carries. Several streams go over the one, by yamux: the driver
//     opens them in the order of [Streams], and the agent none.
//
//   - By one connection that the driver makes, secured by TLS: each side knows the other's key ([Identity]). The driver learns the agent's from
//     a line that it prints ([Listens]). On it are the same streams.
//
// It says [Hello] first, so that what else may have been printed can be told from it. Then requests and events go as messages of [Write],
// on the socket or on the first stream. The agent ends, and the container with it, when the worker has ended and the driver has hung up, when
// the driver is gone, and when its lifetime is over. User code has the agent's user id, but can't trace it. What it can do to the agent, end it by a signal
// say, hurts its own sandbox alone; so drivers bound what they read, and believe what they are told of that sandbox only.
package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Variable is the environment variable that makes a program the agent. Its value is a [Boot].
const Variable = "SBX_AGENT"

// Boot is what the agent must know from the start.
type Boot struct {
	// Token is a secret of the driver and its agent: who knows it is the other one.
	Token string `json:"token"`
	// Socket is the path to dial. If it is empty or nobody is there, the agent uses its standard input and output.
	Socket string `json:"socket,omitempty"`
	// Listen has the agent wait for a connection instead. Token is no secret then.
	Listen *Listen `json:"listen,omitempty"`
	// Lifetime is when the agent ends at the latest; 0 is never.
	Lifetime time.Duration `json:"lifetime,omitempty"`
}

// Listen says where an agent waits for its driver, and for whom.
type Listen struct {
	// Port is of TCP, on all addresses.
	Port int `json:"port"`
	// Client is the key of the driver's [Identity].
	Client string `json:"client"`
	// Wait is how long the driver has to come; 0 is Patience.
	Wait time.Duration `json:"wait,omitempty"`
}

// Listens is the line that an agent prints on standard output when it waits, with the key of its own [Identity].
func Listens(key string) string { return ListensPrefix + key }

// ListensPrefix is what such a line begins with.
const ListensPrefix = "sbx agent listens "

// Encode returns b as the value of [Variable].
func (b Boot) Encode() string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and a number can be encoded
	}
	return string(text)
}

// Hello is the line that an agent writes first. It begins with the end of what may stand before it.
func Hello(token string) string { return "\nsbx agent " + token + "\n" }

// The streams of the second way, in the order in which the driver opens them.
const (
	ControlStream = iota
	ConnStream
	HandshakeStream
	StdoutStream
	StderrStream
	DirectStream
	Streams
)

// The descriptors that come with the request to start, in the first way, in their order.
const (
	ConnFile = iota
	HandshakeFile
	StdoutFile
	StderrFile
	LedgerFile
	DirectFile
	Files
)

// Request is what a driver asks of the agent. The first one starts the worker, and no other does.
type Request struct {
	// Start is how the worker starts.
	Start *Start `json:"start,omitempty"`
	// Kill ends the worker, and all else with it.
	Kill bool `json:"kill,omitempty"`
}

// Start describes the worker's process.
type Start struct {
	// Env is its whole environment.
	Env []string `json:"env"`
	// OpenFiles and Processes are limits of each process and of the user, for the agent, too; 0 leaves what the container has.
	OpenFiles uint64 `json:"openFiles,omitempty"`
	Processes uint64 `json:"processes,omitempty"`
}

// Event is what the agent tells the driver.
type Event struct {
	// Started says that the worker runs.
	Started bool `json:"started,omitempty"`
	// Error is why it does not; the agent ends.
	Error string `json:"error,omitempty"`
	// Exit says how it ended. No other process of the sandbox but the agent lives then, as far as the agent could kill them.
	Exit *Exit `json:"exit,omitempty"`
}

// Exit says how the worker ended, as driver.Exit does. Signal is of Linux.
type Exit struct {
	Code        int  `json:"code"`
	Signal      int  `json:"signal,omitempty"`
	OutOfMemory bool `json:"outOfMemory,omitempty"`
}

// Bounds of messages. The kernel takes no environment that is longer than a few MiB.
const (
	MaxRequest = 16 << 20
	MaxEvent   = 64 << 10
)

// headerSize is of a message: its length.
const headerSize = 4

// Write writes a message.
func Write(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	// One write, so that descriptors which go with it come with its first byte.
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// Read reads a message that has at most limit bytes.
func Read(r io.Reader, limit int, message any) error {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(header[:])
	if uint64(length) > uint64(limit) {
		return fmt.Errorf("a message has %d bytes, and may have %d", length, limit)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return errors.Join(errors.New("a message is cut off"), err)
	}
	return json.Unmarshal(text, message)
}

// Patience is how long each side waits for the other to take what it writes, and for an answer to its signs of life, before it takes the
// other one for gone. It is that long so that a program which was stopped for a moment finds its sandboxes again.
const Patience = time.Minute

// Multiplexing configures yamux on both sides.
func Multiplexing() *yamux.Config {
	config := yamux.DefaultConfig()
	config.KeepAliveInterval = Patience / 4
	config.ConnectionWriteTimeout = Patience
	config.StreamCloseTimeout = 0 // a stream lives no longer than its session
	config.MaxStreamWindowSize = 1 << 20
	config.LogOutput = io.Discard
	return config
}
