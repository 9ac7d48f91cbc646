package sbx_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// found returns the error of type T in err, which must be there.
func found[T error](t *testing.T, err error) T {
	t.Helper()
	e, ok := errors.AsType[T](err)
	require.True(t, ok, "no %T in %v", e, err)
	return e
}

// Whatever a function returns, the caller finds in it what Local finds.
func TestErrorsCrossWhole(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		typed := sbxtest.Open(t, on).Function(Typed)
		fails := func(what string) error {
			_, err := typed.Call(t.Context(), what)
			_, local := typed.Local(t.Context(), what)
			function := found[*sbx.FunctionError](t, err)
			assert.Equal(t, local.Error(), function.Error(), what)
			assert.Equal(t, fmt.Sprintf("%T", local), function.Type, what)
			for _, sentinel := range []error{
				ErrOdd, errPrivate, ErrAlias, ErrStage, io.EOF, io.ErrNoProgress, io.ErrShortWrite, fs.ErrNotExist, fs.ErrExist,
				syscall.ENOENT, strconv.ErrSyntax, exec.ErrNotFound, status(1), status(404), status(418), lineError{3}, lineError{4},
			} {
				assert.Equal(t, errors.Is(local, sentinel), errors.Is(err, sentinel), "%s: %v", what, sentinel)
			}
			return err
		}

		stage := found[*StageError](t, fails("stage"))
		assert.Equal(t, "load", stage.Stage)
		inner, ok := any(stage.Err).(*StageError) // and nothing around it
		require.True(t, ok)
		assert.Equal(t, "open", inner.Stage)
		assert.EqualError(t, inner.Err, "first: odd\nio: read/write on closed pipe")
		assert.ErrorIs(t, inner.Err, ErrOdd)
		assert.ErrorIs(t, inner, io.ErrClosedPipe)

		assert.Equal(t, lineError{3}, found[lineError](t, fails("value")))
		assert.Equal(t, &lineError{4}, found[*lineError](t, fails("pointer")))
		_, ok = errors.AsType[lineError](fails("pointer"))
		assert.False(t, ok, "it is the pointer that was returned")
		assert.Equal(t, status(404), found[status](t, fails("status")))

		many := found[manyError](t, fails("many"))
		require.Len(t, many.Errs, 4)
		assert.Same(t, io.EOF, many.Errs[0], "the variable itself")
		assert.NoError(t, many.Errs[1])
		assert.Equal(t, &StageError{Stage: "x"}, many.Errs[2])
		assert.Equal(t, manyError{[]error{status(1), ErrStage}}, many.Errs[3])

		nested := found[*nestedError](t, fails("nested"))
		assert.Equal(t, &nestedError{StageError{"deep", errPrivate}, 500}, nested)
		assert.Same(t, ErrStage, found[*StageError](t, fails("variable")))
		assert.Equal(t, status(418), found[*matchError](t, fails("match")).Status)

		hidden := fails("hidden")
		_, ok = errors.AsType[*hiddenError](hidden)
		assert.False(t, ok, "never half of it")
		assert.Contains(t, hidden.Error(), "hidden line 5")
		assert.Equal(t, "*fmt.wrapError", found[*registry.RemoteError](t, hidden).Type)

		path := found[*fs.PathError](t, fails("path"))
		assert.Equal(t, fs.PathError{Op: "open", Path: "/no/such/file", Err: syscall.ENOENT}, *path)
		assert.Equal(t, &strconv.NumError{Func: "Atoi", Num: "x1", Err: strconv.ErrSyntax}, found[*strconv.NumError](t, fails("number")))
		address := found[*url.Error](t, fails("url"))
		assert.Equal(t, "http://x", address.URL)
		assert.Equal(t, url.EscapeError("%zz"), found[url.EscapeError](t, address.Err))
		standard := fails("standard")
		assert.Equal(t, "x.test", found[*net.DNSError](t, standard).Name)
		assert.True(t, found[*net.DNSError](t, standard).IsNotFound)
		assert.Equal(t, &exec.Error{Name: "nobody", Err: exec.ErrNotFound}, found[*exec.Error](t, standard))
		assert.Equal(t, &os.LinkError{Op: "link", Old: "a", New: "b", Err: fs.ErrExist}, found[*os.LinkError](t, standard))
		assert.Equal(t, "19", found[*StageError](t, fails("deep")).Stage)

		_, err := typed.Call(t.Context(), "nil")
		assert.ErrorContains(t, err, "Error() of *sbx_test.nilError panicked")
		_, ok = errors.AsType[*nilError](err)
		assert.False(t, ok)
	})
}

func TestErrorsThatMisbehave(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		misbehave := session.Function(Misbehave)
		for _, in := range []string{"Error", "Is", "As", "Unwrap"} {
			_, err := misbehave.Call(t.Context(), in)
			assert.ErrorIs(t, err, ErrOdd, in)
			assert.NotErrorIs(t, err, io.EOF, in)
			assert.Equal(t, in, found[*misbehavingError](t, err).In)
			_, ok := errors.AsType[*StageError](err)
			assert.False(t, ok, in)
			if in == "Error" {
				assert.ErrorContains(t, err, "Error() of *errors.joinError panicked: in Error")
			} else {
				assert.ErrorContains(t, err, "misbehaves in "+in)
			}
		}
		assert.Equal(t, 1, session.SandboxCount(), "none of them costs a sandbox")
	})
}

func TestErrorsOfMapsAndTimeouts(t *testing.T) {
	session := sbxtest.Open(t)
	_, err := session.Function(Typed).MapSlice(t.Context(), []string{"", "status"})
	assert.Equal(t, status(404), found[status](t, err))
	_, err = session.Function(Slow, sbx.Timeout(20*time.Millisecond)).Call(t.Context(), "own error")
	assert.ErrorIs(t, err, sbx.ErrTimeout)
	assert.ErrorIs(t, err, ErrOdd)
}

// An error in an argument or a result is a value like any other.
func TestErrorsAsValues(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		judge := sbxtest.Open(t, on).Function(Judge)
		got, err := judge.Call(t.Context(), Outcome{Err: ErrOdd})
		require.NoError(t, err)
		for _, err := range []error{got.Err, got.Errs["was"], got.Errs["odd"]} {
			assert.Same(t, ErrOdd, err, "the variable itself")
		}
		assert.EqualError(t, got.Errs["around"], "judged: odd")
		assert.ErrorIs(t, got.Errs["around"], ErrOdd)

		stage := &StageError{"a", status(3)}
		got, err = judge.Call(t.Context(), Outcome{Err: fmt.Errorf("sent: %w", stage)})
		require.NoError(t, err)
		assert.NoError(t, got.Errs["odd"])
		assert.Equal(t, stage, found[*StageError](t, got.Errs["around"]))
		assert.EqualError(t, got.Err, "sent: stage a: status 3")
		assert.Contains(t, got.Errs, "odd", "nil is there, and nil")
	})
}
