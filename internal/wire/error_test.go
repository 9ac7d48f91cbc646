package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

var errOurs = errors.New("ours")

func init() { registry.Error("github.com/sandboxfn/sbx/internal/wire.errOurs", errOurs) }

func crossed(t *testing.T, err error) error {
	t.Helper()
	data, marshalErr := proto.Marshal(EncodeError(err))
	require.NoError(t, marshalErr)
	node := &wirepb.Error{}
	require.NoError(t, proto.Unmarshal(data, node))
	return DecodeError(node)
}

type uncomparable struct{ list []error }

func (u uncomparable) Error() string { return "uncomparable" }

type nilPanics struct{ text string }

func (n *nilPanics) Error() string { return n.text }

func TestErrorTreesKeepSentinelsAndText(t *testing.T) {
	_, notExist := os.Open("/no/such/file")
	for _, c := range []struct {
		err      error
		sentinel []error
	}{
		{io.EOF, []error{io.EOF}},
		{errOurs, []error{errOurs}},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), []error{io.ErrUnexpectedEOF}},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", errOurs)), []error{errOurs}},
		{errors.Join(io.EOF, fmt.Errorf("x: %w and %w", errOurs, context.Canceled)), []error{io.EOF, errOurs, context.Canceled}},
		{notExist, []error{fs.ErrNotExist, syscall.ENOENT}},
		{fmt.Errorf("full: %w", syscall.ENOSPC), []error{syscall.ENOSPC}},
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, []error{fs.ErrPermission}},
		{context.DeadlineExceeded, []error{context.DeadlineExceeded, os.ErrDeadlineExceeded}[:1]},
		{uncomparable{[]error{io.EOF}}, nil},
		{errors.New("bad utf-8 \xff"), nil},
	} {
		got := crossed(t, c.err)
		assert.Equal(t, strings.ToValidUTF8(c.err.Error(), "\uFFFD"), got.Error())
		var remote *RemoteError
		require.ErrorAs(t, got, &remote)
		assert.Equal(t, fmt.Sprintf("%T", c.err), remote.Type)
		for _, sentinel := range c.sentinel {
			assert.ErrorIs(t, got, sentinel)
		}
		assert.NotErrorIs(t, got, fs.ErrClosed)
	}
}

func TestErrorsThatPanic(t *testing.T) {
	got := crossed(t, (*nilPanics)(nil))
	assert.ErrorContains(t, got, "Error() of *wire.nilPanics panicked")
}

func TestErrorTreesAreBounded(t *testing.T) {
	deep := errOurs
	for range 10_000 {
		deep = fmt.Errorf("%w", deep)
	}
	assert.NotErrorIs(t, crossed(t, deep), errOurs, "what is beyond the bound is cut off")
	wide := make([]error, 10_000)
	for i := range wide {
		wide[i] = io.EOF
	}
	require.ErrorIs(t, crossed(t, errors.Join(wide...)), io.EOF)
	long := crossed(t, errors.New(strings.Repeat("x", 1<<20)))
	assert.Less(t, len(long.Error()), 100_000)
	assert.ErrorContains(t, long, "bytes more)")

	heavy := make([]error, 100)
	for i := range heavy {
		heavy[i] = errors.New(strings.Repeat("y", maxErrorText))
	}
	assert.Less(t, proto.Size(EncodeError(errors.Join(heavy...))), MaxFrame/4, "a tree fits into a frame")

	// A hostile worker does not keep to the bounds.
	node := &wirepb.Error{Text: "leaf"}
	for range 5000 {
		node = &wirepb.Error{Text: "node", Causes: []*wirepb.Error{node, node}}
	}
	assert.Equal(t, "node", DecodeError(node).Error())
}

func TestErrnoOfAnotherSystemKeepsItsTextOnly(t *testing.T) {
	got := DecodeError(&wirepb.Error{Text: "no such file", Errno: 2, ErrnoSystem: "plan9"})
	assert.EqualError(t, got, "no such file")
	assert.NotErrorIs(t, got, fs.ErrNotExist)
	var errno syscall.Errno
	require.ErrorAs(t, crossed(t, syscall.EPIPE), &errno)
	assert.Equal(t, syscall.EPIPE, errno)
}
