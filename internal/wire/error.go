package wire

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
)

// Bounds of an error tree on the wire. What is beyond them is cut off, and the text says so.
const (
	maxErrorDepth = 64
	maxErrorNodes = 1024
	maxErrorText  = 64 << 10
	maxErrorBytes = 512 << 10 // of all texts of a tree: it must fit into a frame
)

// EncodeError turns an error and all that it wraps into a tree.
func EncodeError(err error) *wirepb.Error {
	e := errorEncoder{bytes: maxErrorBytes}
	return e.encode(err, 0)
}

// errorEncoder counts what a tree may still take.
type errorEncoder struct{ nodes, bytes int }

func (e *errorEncoder) encode(err error, depth int) *wirepb.Error {
	e.nodes++
	node := &wirepb.Error{Text: e.clip(errorText(err)), Type: e.clip(fmt.Sprintf("%T", err))}
	if name, ok := registry.SentinelName(err); ok {
		node.Sentinel = name
	}
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // this node, not what it wraps
		node.Errno, node.ErrnoSystem = uint32(errno), runtime.GOOS
	}
	if depth == maxErrorDepth {
		return node
	}
	for _, cause := range unwrap(err) {
		if cause != nil && e.nodes < maxErrorNodes {
			node.Causes = append(node.Causes, e.encode(cause, depth+1))
		}
	}
	return node
}

// clip cuts text to what a text may have and to what is left of the tree's bytes.
func (e *errorEncoder) clip(text string) string {
	text = Clip(text, min(maxErrorText, max(e.bytes, 0)))
	e.bytes -= len(text)
	return text
}

// errorText is err.Error(), or what that panicked with: a nil pointer in an error interface must not end the worker.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("(Error() of %T panicked: %v)", err, p)
		}
	}()
	return err.Error()
}

func unwrap(err error) (causes []error) {
	defer func() {
		if recover() != nil {
			causes = nil
		}
	}()
	switch wrapper := err.(type) { //nolint:errorlint // the tree is walked node by node
	case interface{ Unwrap() error }:
		return []error{wrapper.Unwrap()}
	case interface{ Unwrap() []error }:
		return wrapper.Unwrap()
	}
	return nil
}

// DecodeError turns a tree back into an error that prints as the original did, and in which errors.Is finds every
// sentinel that this program registers too. It never fails: a tree beyond the bounds is cut off.
func DecodeError(node *wirepb.Error) error {
	nodes := 0
	return decodeError(node, 0, &nodes)
}

func decodeError(node *wirepb.Error, depth int, nodes *int) error {
	*nodes++
	e := &RemoteError{Text: Clip(node.GetText(), maxErrorText), Type: Clip(node.GetType(), maxErrorText)}
	if sentinel, ok := registry.Sentinel(node.GetSentinel()); ok {
		e.sentinel = sentinel
	} else if node.GetErrno() != 0 && node.GetErrnoSystem() == runtime.GOOS {
		e.sentinel = syscall.Errno(node.GetErrno()) // which knows that it is fs.ErrNotExist, and the like
	}
	if depth == maxErrorDepth {
		return e
	}
	for _, cause := range node.GetCauses() {
		if *nodes >= maxErrorNodes {
			break
		}
		e.causes = append(e.causes, decodeError(cause, depth+1, nodes))
	}
	return e
}

// RemoteError is an error that a function returned, or one that it wraps, as it arrives on the session's side.
type RemoteError struct {
	// Text is what Error() returned in the sandbox.
	Text string
	// Type is the error's Go type in the sandbox, as %T prints it.
	Type     string
	sentinel error
	causes   []error
}

func (e *RemoteError) Error() string { return e.Text }

// Is reports whether e is the registered variable target. The variable itself decides, so that a sentinel with an Is
// method of its own works. The same goes for the errors of system calls.
func (e *RemoteError) Is(target error) bool {
	return e.sentinel != nil && errors.Is(e.sentinel, target)
}

// As finds the registered variable that e is, for error types of sentinels, and the error of a system call.
func (e *RemoteError) As(target any) bool {
	return e.sentinel != nil && errors.As(e.sentinel, target)
}

// Unwrap returns the errors that e wraps.
func (e *RemoteError) Unwrap() []error { return e.causes }

// Clip cuts text to at most limit bytes of valid UTF-8 and says so where it did.
func Clip(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit] + fmt.Sprintf("… (%d bytes more)", len(text)-limit)
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
