package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/registry/internal/generic"
)

type job struct {
	Name  string
	Steps []int
}

var errDiverged = errors.New("diverged")

func train(_ context.Context, in job) (int, error) {
	if in.Name == "bad" {
		return 0, errDiverged
	}
	if in.Name == "panic" {
		panic("boom")
	}
	return len(in.Steps), nil
}
func act(_ context.Context, in *int) error                { *in++; return nil }
func now(context.Context) (string, error)                 { return "now", nil }
func add(_ context.Context, a int, b string) (any, error) { return fmt.Sprint(a, b), nil }
func bad(context.Context, chan int) (int, error)          { return 0, nil }
func echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }
func badResult(context.Context, int) (func(), error)      { return nil, nil }

func init() {
	Function[job, int]("m.train", train)
	Action[*int]("m.act", act)
	Function0[string]("m.now", now)
	Function2[int, string, any]("m.add", add)
	Function[chan int, int]("m.bad", bad)
	Function[int, func()]("m.badResult", badResult)
	Function[[]byte, []byte]("m.echo", echo)
	Error("m.errDiverged", errDiverged)
}

func entry(t *testing.T, fn any) *Entry {
	t.Helper()
	e, ok := Lookup(fn)
	require.True(t, ok)
	return e
}

func TestFunctionCrosses(t *testing.T) {
	e := entry(t, train)
	assert.Equal(t, "m.train", e.Name())
	assert.Equal(t, []reflect.Type{reflect.TypeFor[job]()}, e.Params())
	assert.Equal(t, reflect.TypeFor[int](), e.Result())
	require.NoError(t, e.Err())

	call := func(in job) (*Invocation, error) {
		data, err := e.EncodeArgs([]byte("head"), &in)
		require.NoError(t, err)
		require.Equal(t, "head", string(data[:4]))
		i, err := e.DecodeArgs(data[4:])
		require.NoError(t, err)
		return i, i.Run(t.Context())
	}
	i, err := call(job{"a", []int{1, 2, 3}})
	require.NoError(t, err)
	data, err := i.EncodeResult(nil)
	require.NoError(t, err)
	var out int
	require.NoError(t, e.DecodeResult(data, &out))
	assert.Equal(t, 3, out)

	_, err = call(job{Name: "bad"})
	assert.Same(t, errDiverged, err, "the error must be untouched")
	assert.PanicsWithValue(t, "boom", func() { _, _ = call(job{Name: "panic"}) })
}

func TestOtherShapes(t *testing.T) {
	t.Run("action", func(t *testing.T) {
		e := entry(t, act)
		assert.Nil(t, e.Result())
		n := new(int)
		data, err := e.EncodeArgs(nil, &n)
		require.NoError(t, err)
		i, err := e.DecodeArgs(data)
		require.NoError(t, err)
		require.NoError(t, i.Run(t.Context()))
		assert.Equal(t, 0, *n, "the argument is a copy")
		data, err = i.EncodeResult(nil)
		require.NoError(t, err)
		require.NoError(t, e.DecodeResult(data, nil))
		var wrong *DataError
		assert.ErrorAs(t, e.DecodeResult([]byte{1}, nil), &wrong)
	})
	t.Run("function0", func(t *testing.T) {
		e := entry(t, now)
		data, err := e.EncodeArgs(nil)
		require.NoError(t, err)
		i, err := e.DecodeArgs(data)
		require.NoError(t, err)
		require.NoError(t, i.Run(t.Context()))
		data, err = i.EncodeResult(nil)
		require.NoError(t, err)
		var out string
		require.NoError(t, e.DecodeResult(data, &out))
		assert.Equal(t, "now", out)
	})
	t.Run("function2", func(t *testing.T) {
		e := entry(t, add)
		a, b := 1, "x"
		data, err := e.EncodeArgs(nil, &a, &b)
		require.NoError(t, err)
		i, err := e.DecodeArgs(data)
		require.NoError(t, err)
		require.NoError(t, i.Run(t.Context()))
		data, err = i.EncodeResult(nil)
		require.NoError(t, err)
		var out any
		require.NoError(t, e.DecodeResult(data, &out))
		assert.Equal(t, fmt.Sprint(1, "x"), out)
		_, err = e.DecodeArgs(append(data, 0))
		assert.Error(t, err)
	})
}

func TestArgumentMisuse(t *testing.T) {
	e := entry(t, train)
	var value *ValueError
	for name, args := range map[string][]any{
		"none":    nil,
		"two":     {&job{}, &job{}},
		"value":   {job{}},
		"nil":     {nil},
		"typed":   {(*job)(nil)},
		"another": {new(int)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.EncodeArgs(nil, args...)
			assert.ErrorAs(t, err, &value)
		})
	}
	assert.ErrorAs(t, e.DecodeResult([]byte{1}, new(string)), &value)
	assert.ErrorAs(t, e.DecodeResult([]byte{1}, nil), &value)
}

func TestEntryErr(t *testing.T) {
	var typ *TypeError
	require.ErrorAs(t, entry(t, bad).Err(), &typ)
	assert.Equal(t, reflect.TypeFor[chan int](), typ.Type)
	require.ErrorAs(t, entry(t, badResult).Err(), &typ)
	assert.Contains(t, typ.Error(), "a function is code")
	_, err := entry(t, bad).EncodeArgs(nil, new(chan int))
	assert.ErrorAs(t, err, &typ)
	_, err = entry(t, bad).DecodeArgs(nil)
	assert.ErrorAs(t, err, &typ)
	assert.NotEmpty(t, entry(t, bad).Fingerprint(), "what can't be sent has a signature all the same")
}

func TestIdentity(t *testing.T) {
	Function[int, int]("generic.Echo[int]", generic.Echo[int])
	Function[string, string]("generic.Echo[string]", generic.Echo)
	Function[generic.Named, generic.Named]("generic.Echo[Named]", generic.Echo)
	Function[int, int]("generic.Plain", generic.Plain)
	Function[int, int]("generic.Same", generic.Same)
	Function[*int, *int]("generic.Echo[*int]", generic.Echo)
	Function[int, int]("generic.Plain", generic.PlainVar) // again, from elsewhere

	for name, fn := range map[string]any{
		"generic.Echo[int]":    generic.Int,
		"generic.Echo[string]": generic.String,
		"generic.Echo[Named]":  generic.OfNamed,
		"generic.Echo[*int]":   generic.Pointer,
		"generic.Plain":        generic.PlainVar,
		"generic.Same":         generic.SameVar,
	} {
		assert.Equal(t, name, entry(t, fn).Name())
	}

	k := 0
	for name, fn := range map[string]any{
		"nil":         nil,
		"no function": 3,
		"nil func":    (func(context.Context, int) (int, error))(nil),
		"closure":     func(context.Context, int) (int, error) { k++; return k, nil },
		"other type":  generic.Echo[int8],
	} {
		_, ok := Lookup(fn)
		assert.False(t, ok, name)
	}
	_, ok := ByName("nobody")
	assert.False(t, ok)
	e, ok := ByName("m.train")
	assert.True(t, ok)
	assert.Same(t, entry(t, train), e)
}

func TestRegistrationCollides(t *testing.T) {
	assert.NotPanics(t, func() { Function[job, int]("m.train", train) })
	assert.PanicsWithValue(t,
		"registry: the function registered as m.again is registered as m.train too; run go generate again",
		func() { Function[job, int]("m.again", train) })
	assert.PanicsWithValue(t,
		"registry: two functions are registered as m.now, a func(context.Context) (string, error) and a "+
			"func(context.Context, int) (int, error); run go generate again",
		func() { Function[int, int]("m.now", func(context.Context, int) (int, error) { return 0, nil }) })
	assert.Panics(t, func() { Action[int]("m.nil", nil) })
}

type unequal struct{ _ []int }

func (unequal) Error() string { return "" }

type holdsAny struct{ x any }

func (holdsAny) Error() string { return "" }

func TestSentinels(t *testing.T) {
	for name, err := range map[string]error{
		"m.errDiverged":            errDiverged,
		"io.EOF":                   io.EOF,
		"context.DeadlineExceeded": context.DeadlineExceeded,
		"io/fs.ErrNotExist":        os.ErrNotExist,
		"os.ErrDeadlineExceeded":   os.ErrDeadlineExceeded,
	} {
		got, ok := sentinelName(err)
		assert.True(t, ok, name)
		assert.Equal(t, name, got)
		back, ok := sentinelNamed(name)
		assert.True(t, ok, name)
		identical := back == err
		assert.True(t, identical, name)
	}
	assert.Len(t, standardSentinelNames(), len(standardSentinels()), "two names for one error")

	for _, err := range []error{nil, errors.New("x"), unequal{}, holdsAny{[]int{}}, &fs.PathError{Err: io.EOF},
		fmt.Errorf("wrapped: %w", errDiverged)} {
		_, ok := sentinelName(err)
		assert.False(t, ok, "%v", err)
	}
	_, ok := sentinelNamed("m.nobody")
	assert.False(t, ok)

	Error("m.nil", nil)
	Error("m.unequal", unequal{})
	_, ok = sentinelNamed("m.nil")
	assert.False(t, ok)
	Function[[]byte, []byte]("m.echo", echo)
	Error("m.errDiverged", errDiverged)
	Error("m.alias", errDiverged)
	name, _ := sentinelName(errDiverged)
	assert.Equal(t, "m.errDiverged", name)
	alias, ok := sentinelNamed("m.alias")
	assert.True(t, ok && alias == errDiverged)
	assert.Panics(t, func() { Error("m.errDiverged", errors.New("another")) })
}

func TestManifest(t *testing.T) {
	m := CurrentManifest()
	require.NotEmpty(t, m.Functions)
	names := make([]string, len(m.Functions))
	for i, f := range m.Functions {
		names[i] = f.Name
		assert.Regexp(t, "^[0-9a-f]{32}$", f.Fingerprint)
	}
	assert.IsIncreasing(t, names)
	assert.Empty(t, m.Diff(CurrentManifest()))

	a := Manifest{[]ManifestFunction{{"m.A", "func(int) string", "1"}, {"m.B", "func(int)", "2"}}}
	b := Manifest{[]ManifestFunction{{"m.A", "func(int8) string", "3"}, {"m.C", "func()", "4"}}}
	assert.Equal(t, []string{
		"m.A: signature differs: func(int) string here, func(int8) string in the other program",
		"m.B: missing in the other program",
		"m.C: only in the other program",
	}, a.Diff(b))
}

func TestConcurrentUse(t *testing.T) {
	type fresh struct {
		A []map[string]*fresh
		B any
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			Function[job, int]("m.train", train)
			Type[fresh]()
			Function[[]byte, []byte]("m.echo", echo)
			Error("m.errDiverged", errDiverged)
			e, _ := Lookup(train)
			assert.NoError(t, e.Err())
			assert.NotEmpty(t, CurrentManifest().Functions)
			_, ok := sentinelName(errDiverged)
			assert.True(t, ok)
			in := fresh{A: []map[string]*fresh{{"x": {B: fresh{B: 1}}}}}
			assert.Equal(t, in, crossed(t, in))
		})
	}
	group.Wait()
}

func TestLongBytesAreNotCopied(t *testing.T) {
	e := entry(t, echo)
	for _, n := range []int{0, ownedSize - 1, ownedSize, 1 << 20} {
		data, err := e.EncodeArgs(nil, new(bytes.Repeat([]byte{7}, n)))
		require.NoError(t, err)
		var result []byte
		require.NoError(t, e.DecodeResult(data, &result))
		require.Equal(t, bytes.Repeat([]byte{7}, n), result)
		assert.Equal(t, n, cap(result), "what is appended changes nothing else")
		data[len(data)-1] = 8
		assert.Equal(t, n >= ownedSize, n > 0 && result[n-1] == 8)
	}
}
