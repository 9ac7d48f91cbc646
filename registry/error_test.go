package registry

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"math/rand"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

type (
	stageError struct {
		Stage string
		Err   error
	}
	valueError struct{ Line int }
	codeError  int
	textError  string
	listError  []error // a value that can't be compared
	embedError struct {
		*StageTwo
		valueError
		Code codeError
	}
	StageTwo struct{ Stage string }

	// isError has Is and As methods that look into the state.
	isError struct {
		Code int
		Err  error
	}
	panicError  struct{ What string }
	binaryError struct{ n int }
	// partialError has a field that isn't sent, and an error in it.
	partialError struct {
		Name string
		err  error `msgpack:"-"`
	}
	// secretError can't be sent.
	secretError struct {
		Name string
		line int
	}
	unregisteredError struct{ Name string }
	// anyError can be sent if what it holds can.
	anyError  struct{ Held any }
	selfError struct{ Next *selfError }
	// quietError's Unwrap is about another error than its field.
	quietError struct {
		Err   error
		Cause func() error `msgpack:"-"`
	}
	namedError error
	fieldError struct {
		A, B  error
		Named namedError
		Map   map[string]*error
		Errno syscall.Errno
	}
)

func (e *stageError) Error() string     { return e.Stage + ": " + fmt.Sprint(e.Err) }
func (e *stageError) Unwrap() error     { return e.Err }
func (e valueError) Error() string      { return "line " + strconv.Itoa(e.Line) }
func (e codeError) Error() string       { return "code " + strconv.Itoa(int(e)) }
func (e textError) Error() string       { return string(e) }
func (e listError) Error() string       { return fmt.Sprint([]error(e)) }
func (e listError) Unwrap() []error     { return e }
func (e *StageTwo) Error() string       { return "stage " + e.Stage }
func (e *embedError) Error() string     { return e.Stage + e.valueError.Error() }
func (e *isError) Error() string        { return "is" }
func (e *isError) Is(target error) bool { return target == e.Err || target == codeError(e.Code) }
func (e *isError) As(target any) bool   { return asCode(target, e.Code) }
func (e *panicError) Error() string     { return e.panic("Error") }
func (e *panicError) Is(error) bool     { return e.panic("Is") != "" }
func (e *panicError) As(any) bool       { return e.panic("As") != "" }
func (e *panicError) Unwrap() []error   { e.panic("Unwrap"); return nil }
func (e binaryError) Error() string     { return strconv.Itoa(e.n) }
func (e partialError) Error() string    { return fmt.Sprint(e.Name, e.err) }
func (e partialError) Unwrap() error    { return e.err }
func (e *secretError) Error() string    { return e.Name }
func (unregisteredError) Error() string { return "unregistered" }
func (e anyError) Error() string        { return fmt.Sprint(e.Held) }
func (e *selfError) Error() string      { return "self" }
func (e *selfError) Unwrap() error      { return e.Next }
func (e quietError) Error() string      { return "quiet" }
func (e quietError) Unwrap() error      { return e.Cause() }
func (e *fieldError) Error() string     { return "fields" }
func (e *panicError) panic(in string) string {
	if e.What == in {
		panic("in " + in)
	}
	return ""
}

func asCode(target any, code int) bool {
	to, ok := target.(*codeError)
	if ok {
		*to = codeError(code)
	}
	return ok
}

func (e binaryError) MarshalBinary() ([]byte, error) {
	if e.n == 13 {
		return nil, errors.New("unlucky")
	}
	return []byte{byte(e.n)}, nil
}

func (e *binaryError) UnmarshalBinary(data []byte) error {
	if len(data) != 1 {
		panic("not one byte")
	}
	e.n = int(data[0])
	return nil
}

func init() {
	Error("m.errDiverged", errDiverged)
	Error("m.errAlias", errAlias)
	Error("m.errStage", errStage)
	ErrorType[stageError]()
	ErrorType[valueError]()
	ErrorType[codeError]()
	ErrorType[textError]()
	ErrorType[listError]()
	ErrorType[StageTwo]()
	ErrorType[embedError]()
	ErrorType[isError]()
	ErrorType[panicError]()
	ErrorType[binaryError]()
	ErrorType[partialError]()
	ErrorType[secretError]()
	ErrorType[anyError]()
	ErrorType[selfError]()
	ErrorType[quietError]()
	ErrorType[fieldError]()
	ErrorType[circle]() // no error: ignored
}

var (
	errAlias = io.EOF
	errStage = &stageError{"registered", io.ErrNoProgress}
)

// remote sends an error to the other side.
func remote(t *testing.T, err error) *RemoteError {
	t.Helper()
	got, failed := DecodeError(AppendError([]byte("before")[:0], err))
	require.NoError(t, failed)
	return got
}

func TestErrorValuesCross(t *testing.T) {
	for _, err := range []error{
		valueError{7}, &valueError{7}, codeError(-3), textError("text"), &stageError{"a", nil}, binaryError{5}, &binaryError{5},
		&embedError{&StageTwo{"x"}, valueError{1}, 2}, syscall.ENOENT, anyError{[]string{"a"}}, listError(nil), listError{},
		new(codeError), &fs.PathError{Op: "open", Path: "\xff", Err: fs.ErrNotExist},
		&os.LinkError{Op: "link", Old: "a", New: "b", Err: syscall.EXDEV}, os.NewSyscallError("read", syscall.EIO),
		&strconv.NumError{Func: "Atoi", Num: "x", Err: strconv.ErrSyntax}, &time.ParseError{Layout: "x", Value: "y", Message: "z"},
		&stageError{"a", &stageError{"b", &stageError{"c", io.EOF}}},
		listError{io.EOF, nil, valueError{1}, &stageError{"x", listError{listError{codeError(1)}}}},
		&fieldError{A: io.EOF, B: codeError(2), Named: valueError{1}, Map: map[string]*error{"nil": new(error)}, Errno: syscall.EPERM},
	} {
		for _, sent := range []error{err, fmt.Errorf("wrapped: %w", err), errors.Join(io.ErrShortWrite, err)} {
			got := remote(t, sent)
			assert.Equal(t, sent.Error(), got.Error())
			assert.Equal(t, fmt.Sprintf("%T", sent), got.Type)
			to := reflect.New(reflect.TypeOf(err))
			require.ErrorAs(t, got, to.Interface(), "%T", err)
			assert.Equal(t, err, to.Elem().Interface())
			if to.Kind() == reflect.Pointer && to.Elem().Kind() == reflect.Pointer && reflect.TypeOf(err).Elem().Size() > 0 {
				assert.NotSame(t, err, to.Elem().Interface())
			}
		}
		if !canCompare(err) || reflect.TypeOf(err).Kind() == reflect.Pointer {
			continue
		}
		assert.ErrorIs(t, remote(t, fmt.Errorf("x: %w", err)), err, "a value is found by ==")
	}
}

// plainly prints an error and all that its fields hold, for comparison.
func plainly(err error) string {
	var text strings.Builder
	switch e := err.(type) {
	case *stageError:
		fmt.Fprintf(&text, "*stageError{%s %s}", e.Stage, plainly(e.Err))
	case *isError:
		fmt.Fprintf(&text, "*isError{%d %s}", e.Code, plainly(e.Err))
	case listError:
		fmt.Fprintf(&text, "listError(nil %t)", e == nil)
		for _, inner := range e {
			text.WriteString(plainly(inner) + ",")
		}
	case *RemoteError:
		fmt.Fprintf(&text, "%s %s", e.Type, e.Text)
	default:
		if errorTypeOf(reflect.TypeOf(err)) == nil || errorTypeOf(reflect.TypeOf(err)).codec() == nil {
			return fmt.Sprintf("%T %v", err, err)
		}
		return fmt.Sprintf("%#v %s", reflect.Indirect(reflect.ValueOf(err)), err)
	}
	return text.String()
}

// An error in a field is the very error where that is possible, and found by Is and As in any case.
func TestErrorsInErrors(t *testing.T) {
	inner := fmt.Errorf("text: %w", &fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT})
	sent := fmt.Errorf("outer: %w", &stageError{"one", &stageError{"two", listError{errAlias, nil, inner, errDiverged}}})
	got := remote(t, sent)
	var one *stageError
	require.ErrorAs(t, got, &one)
	assert.Equal(t, "one", one.Stage)
	two, ok := one.Err.(*stageError)
	require.True(t, ok)
	list, ok := two.Err.(listError)
	require.True(t, ok)
	require.Len(t, list, 4)
	assert.Same(t, io.EOF, list[0], "the variable itself")
	assert.NoError(t, list[1], "nil stays nil")
	assert.EqualError(t, list[2], inner.Error())
	var path *fs.PathError
	require.ErrorAs(t, list[2], &path)
	assert.Equal(t, syscall.ENOENT, path.Err)
	for _, from := range []error{got, one, one.Err, two.Err, list} {
		assert.ErrorIs(t, from, io.EOF)
		assert.ErrorIs(t, from, errDiverged)
		assert.ErrorIs(t, from, fs.ErrNotExist)
		assert.NotErrorIs(t, from, io.ErrNoProgress)
	}

	timeout := remote(t, &fs.PathError{Op: "read", Path: "/x", Err: os.ErrDeadlineExceeded})
	require.ErrorAs(t, timeout, &path)
	assert.True(t, path.Timeout(), "it asks its field")
	assert.True(t, os.IsNotExist(list[2].(*RemoteError).causes[0].(*RemoteError).plain()))
}

func TestSentinelsCross(t *testing.T) {
	for _, err := range []error{io.EOF, errDiverged, errAlias, errStage, context.DeadlineExceeded, syscall.EPIPE} {
		for _, sent := range []error{err, fmt.Errorf("x: %w", fmt.Errorf("y: %w", err)), errors.Join(errors.New("a"), err)} {
			got := remote(t, sent)
			assert.ErrorIs(t, got, err)
			assert.NotErrorIs(t, got, fs.ErrClosed)
		}
	}
	var stage *stageError
	require.ErrorAs(t, remote(t, errStage), &stage)
	assert.Same(t, errStage, stage, "a variable is itself")
	changed := &stageError{"before", io.EOF}
	Error("m.changed", changed)
	data := AppendError(nil, &stageError{"outer", changed})
	changed.Stage = "after"
	got, err := DecodeError(data)
	require.NoError(t, err)
	assert.ErrorIs(t, got, changed)
	require.ErrorAs(t, got, &stage)
	assert.ErrorIs(t, stage, changed)
	require.ErrorAs(t, stage.Err, &stage)
	assert.Equal(t, "before", stage.Stage, "what it was there, and not what it is here")
	assert.Equal(t, got, remote(t, got))

	var number interface{ Timeout() bool }
	require.ErrorAs(t, remote(t, context.DeadlineExceeded), &number)
	assert.True(t, number.Timeout())
	assert.ErrorIs(t, remote(t, syscall.ENOENT), fs.ErrNotExist)
}

func TestMethodsOfErrorsAnswerAsBefore(t *testing.T) {
	sent := fmt.Errorf("x: %w", &isError{Code: 4, Err: errDiverged})
	got := remote(t, sent)
	for _, target := range []error{errDiverged, codeError(4), codeError(5), io.EOF, listError{}} {
		assert.Equal(t, errors.Is(sent, target), errors.Is(got, target), "%v", target)
	}
	var code codeError
	require.ErrorAs(t, got, &code)
	assert.Equal(t, codeError(4), code)
	var text textError
	assert.NotErrorAs(t, got, &text)
}

// What can't be sent arrives as text, and what it wraps arrives all the same.
func TestErrorsThatArriveAsText(t *testing.T) {
	Type[circle]()
	ring := &selfError{}
	ring.Next = ring
	deep := &selfError{}
	for range 2 * maxErrorDepth {
		deep = &selfError{Next: deep}
	}
	big := textError(strings.Repeat("x", maxErrorBytes+1))
	for _, err := range []error{
		&secretError{"secret", 3}, unregisteredError{"x"}, anyError{make(chan int)}, anyError{square{}}, binaryError{13}, ring,
		(*stageError)(nil), (*valueError)(nil), big, &net.OpError{Op: "dial"},
	} {
		got := remote(t, fmt.Errorf("a: %w", errors.Join(err, io.EOF)))
		assert.ErrorIs(t, got, io.EOF)
		to := reflect.New(reflect.TypeOf(err))
		assert.NotErrorAs(t, got, to.Interface(), "%T", err)
		assert.Zero(t, to.Elem().Interface())
		alone := remote(t, err)
		assert.Equal(t, clip(errorText(err), maxErrorText), alone.Text)
		assert.Equal(t, fmt.Sprintf("%T", err), alone.Type)
	}
	var self *selfError
	require.ErrorAs(t, remote(t, deep), &self)
	assert.NotNil(t, self.Next.Next, "a long chain of pointers is state")
	assert.NotNil(t, remote(t, ring).causes)
}

func TestPartialStateIsNoSubstitute(t *testing.T) {
	got := remote(t, &stageError{"x", partialError{"name", errDiverged}})
	var stage *stageError
	require.ErrorAs(t, got, &stage)
	assert.EqualError(t, stage.Err, "namediverged", "and not what the rest of it would print")
	assert.ErrorIs(t, stage.Err, errDiverged)
	var partial partialError
	require.ErrorAs(t, stage.Err, &partial)
	assert.Equal(t, partialError{"name", nil}, partial, "as its tag says")

	quiet := remote(t, &stageError{"x", quietError{io.EOF, func() error { return errDiverged }}})
	require.ErrorAs(t, quiet, &stage)
	assert.ErrorIs(t, stage.Err, errDiverged)
	assert.NotErrorIs(t, quiet, io.EOF, "it isn't wrapped")
}

func TestErrorsThatPanic(t *testing.T) {
	for _, in := range []string{"Error", "Unwrap", "Is", "As"} {
		got := remote(t, errors.Join(&panicError{in}, io.EOF))
		assert.ErrorIs(t, got, io.EOF)
		var found *panicError
		require.ErrorAs(t, got, &found)
		assert.Equal(t, in, found.What)
		var other *stageError
		assert.NotErrorAs(t, got, &other)
		assert.Equal(t, in == "Error", strings.Contains(got.Error(), "panicked: in Error"), got.Error())
	}
	assert.Contains(t, remote(t, (*valueError)(nil)).Text, "Error() of *registry.valueError panicked")
	assert.Equal(t, "*registry.RemoteError", remote(t, (*RemoteError)(nil)).Type)
}

func TestErrorTypesOfOneName(t *testing.T) {
	func() {
		type twice struct{ codeError }
		ErrorType[twice]()
		ErrorType[twice]()
	}()
	type twice struct{ codeError }
	assert.Panics(t, func() { ErrorType[twice]() })
}

// texts are those of an error and of all that it wraps.
func texts(err error) []string {
	list := []string{err.Error()}
	for _, cause := range unwrap(err) {
		list = append(list, texts(cause)...)
	}
	return list
}

func TestErrorTreesAreBounded(t *testing.T) {
	deep, chain := errDiverged, errDiverged
	for i := range 10_000 {
		deep = fmt.Errorf("%w", deep)
		chain = &stageError{strconv.Itoa(i), chain}
		if i < 1000 {
			chain = errDiverged
		}
	}
	assert.NotErrorIs(t, remote(t, deep), errDiverged, "what is beyond the bound is cut off")
	var stage *stageError
	require.ErrorAs(t, remote(t, &stageError{"top", deep}), &stage)
	assert.Equal(t, "top", stage.Stage)

	var wide []error
	for range 10_000 {
		wide = append(wide, &stageError{"x", io.EOF})
	}
	for _, err := range []error{errors.Join(wide...), listError(wide)} {
		data := AppendError(nil, err)
		assert.Less(t, len(data), 1<<20)
		got, failed := DecodeError(data)
		require.NoError(t, failed)
		assert.ErrorIs(t, got, io.EOF)
		require.ErrorAs(t, got, &stage)
		var list listError
		assert.NotErrorAs(t, got, &list, "not with some of its errors")
	}
	fits := listError(wide[:maxErrorNodes/2-1])
	var list listError
	require.ErrorAs(t, remote(t, fits), &list)
	assert.Len(t, list, len(fits))

	long := remote(t, errors.New(strings.Repeat("x", maxErrorText-1)+"éé"))
	assert.Equal(t, strings.Repeat("x", maxErrorText-1)+"… (4 bytes more)", long.Error())
	heavy := make([]error, 100)
	for i := range heavy {
		heavy[i] = errors.New(strings.Repeat("y", maxErrorText))
	}
	assert.Less(t, len(AppendError(nil, errors.Join(append(heavy, io.EOF)...))), 1<<20)
	assert.ErrorIs(t, remote(t, errors.Join(append(heavy, io.EOF)...)), io.EOF)
	// What was cut is not cut again when it is sent on, as a journal does.
	for _, err := range []error{long, remote(t, errors.Join(heavy...)), remote(t, fmt.Errorf("around: %w", &stageError{heavy[0].Error(), heavy[1]}))} {
		again := remote(t, err)
		assert.Equal(t, texts(err), texts(again))
	}

	// Errors in errors are sent once, also those that can't be compared.
	doubling := io.EOF
	for range maxErrorDepth {
		doubling = listError{doubling}
	}
	assert.Less(t, len(AppendError(nil, doubling)), 20_000)
	assert.ErrorIs(t, remote(t, doubling), io.EOF)
}

// An error that came from elsewhere is sent on as what it was.
func TestErrorsAreSentOn(t *testing.T) {
	sent := fmt.Errorf("x: %w", errors.Join(&stageError{"a", fmt.Errorf("y: %w", errDiverged)}, unregisteredError{}))
	first := remote(t, sent)
	again := remote(t, first)
	assert.Equal(t, first, again)
	var stage *stageError
	require.ErrorAs(t, again, &stage)
	assert.Equal(t, AppendError(nil, sent), AppendError(nil, again))
}

// Much code asks any error whether it is a net.Error that timed out.
func TestNetErrorsAnswerAsText(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{Port: 1}, Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{Port: 1}, Err: syscall.ECONNREFUSED}
	for _, sent := range []error{dial, refused, fmt.Errorf("x: %w", dial), &stageError{"s", refused}, context.DeadlineExceeded, io.EOF} {
		for _, got := range []error{remote(t, sent), remote(t, remote(t, sent))} {
			var before, after net.Error
			is := errors.As(sent, &before)
			require.Equal(t, is, errors.As(got, &after), "%v", sent)
			if is {
				assert.Equal(t, before.Timeout(), after.Timeout(), "%v", sent)
				assert.Equal(t, before.Error(), after.Error())
				assert.Equal(t, before.(interface{ Temporary() bool }).Temporary(), after.(interface{ Temporary() bool }).Temporary())
			}
			assert.Equal(t, errors.Is(sent, syscall.ECONNREFUSED), errors.Is(got, syscall.ECONNREFUSED))
		}
	}
	path := &fs.PathError{}
	require.ErrorAs(t, remote(t, &fs.PathError{Op: "read", Path: "x", Err: dial}), &path)
	assert.True(t, path.Timeout(), "it asks its field, which is text")
	var found *RemoteError
	require.ErrorAs(t, path.Err, &found)
	assert.Equal(t, "*net.OpError", found.Type)
}

// A field of type error is a value like any other.
func TestErrorsInValues(t *testing.T) {
	type report struct {
		Err    error
		Errs   []error
		ByName map[string]namedError
		Next   *report
		Ptr    *error
	}
	in := report{
		Err: errStage, Errs: []error{nil, io.EOF, valueError{1}}, ByName: map[string]namedError{"a": codeError(3), "nil": nil},
		Next: &report{Err: &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}}, Ptr: new(error),
	}
	assert.Equal(t, in, crossed(t, in))
	wrapped := crossed(t, report{Err: fmt.Errorf("x: %w", io.EOF)})
	assert.EqualError(t, wrapped.Err, "x: EOF")
	assert.ErrorIs(t, wrapped.Err, io.EOF)
	var typ *TypeError
	_, err := CodecOf(reflect.TypeFor[net.Error]())
	assert.ErrorAs(t, err, &typ)
	assert.Equal(t, "func(error) error", signatureOf([]reflect.Type{errorInterface}, errorInterface))
}

// randomError makes a tree of all kinds of errors, some of them in the fields of others.
func randomError(r *rand.Rand, depth int) error {
	inner := func() error {
		if r.Intn(8) == 0 {
			return nil
		}
		return randomError(r, depth-1)
	}
	list := func() []error {
		errs := make([]error, r.Intn(4))
		for i := range errs {
			errs[i] = inner()
		}
		return errs
	}
	kind := r.Intn(14)
	if depth == 0 {
		kind %= 7
	}
	switch kind {
	case 0:
		return []error{io.EOF, errDiverged, errStage, syscall.ENOENT, context.Canceled}[r.Intn(5)]
	case 1:
		return valueError{r.Intn(3)}
	case 2:
		return &valueError{r.Intn(3)}
	case 3:
		return codeError(r.Intn(3))
	case 4:
		return textError(strconv.Itoa(r.Intn(3)))
	case 5:
		return errors.New("text")
	case 6:
		return &secretError{"secret", 1}
	case 7, 8:
		return &stageError{"s", inner()}
	case 9:
		return listError(list())
	case 10:
		return errors.Join(append(list(), io.ErrClosedPipe)...)
	case 11:
		return fmt.Errorf("%w and %w", randomError(r, depth-1), randomError(r, depth-1))
	case 12:
		return &isError{r.Intn(3), inner()}
	default:
		return fmt.Errorf("w: %w", randomError(r, depth-1))
	}
}

func TestRandomErrorsAnswerAsBefore(t *testing.T) {
	targets := []error{
		io.EOF, errDiverged, errStage, io.ErrNoProgress, syscall.ENOENT, fs.ErrNotExist, context.Canceled, valueError{0}, valueError{1},
		codeError(0), codeError(2), textError("1"), io.ErrClosedPipe, fs.ErrClosed,
	}
	found := map[string]int{}
	for seed := range int64(3000) {
		sent := randomError(rand.New(rand.NewSource(seed)), 5)
		data := AppendError(nil, sent)
		got, err := DecodeError(data)
		require.NoError(t, err)
		require.Equal(t, sent.Error(), got.Error())
		for _, target := range targets {
			is := errors.Is(sent, target)
			require.Equal(t, is, errors.Is(got, target), "seed %d: %v in %v", seed, target, sent)
			if is {
				found[fmt.Sprintf("%T", target)]++
			}
		}
		sameAs[*stageError](t, sent, got, found)
		sameAs[valueError](t, sent, got, found)
		sameAs[*valueError](t, sent, got, found)
		sameAs[codeError](t, sent, got, found)
		sameAs[textError](t, sent, got, found)
		sameAs[listError](t, sent, got, found)
		sameAs[*isError](t, sent, got, found)
	}
	assert.Len(t, found, 13)
	for what, n := range found {
		assert.Greater(t, n, 50, what)
	}
}

func sameAs[T error](t *testing.T, sent, got error, found map[string]int) {
	t.Helper()
	want, ok := errors.AsType[T](sent)
	have, also := errors.AsType[T](got)
	require.Equal(t, ok, also, "%T in %v", want, sent)
	if ok {
		require.Equal(t, plainly(want), plainly(have))
		found[fmt.Sprintf("as %T", want)]++
	}
}

// errorBytes writes nodes that no error becomes.
func errorBytes(t *testing.T, parts ...any) []byte {
	t.Helper()
	data, err := msgpack.Marshal(parts)
	require.NoError(t, err)
	return data
}

func node(text, variable string, children, causes []any, state any) []any {
	if children == nil {
		children = []any{}
	}
	if causes == nil {
		causes = []any{}
	}
	return []any{text, "T", variable, 0, children, causes, state}
}

func state(name string, data []byte) []any { return []any{name, data} }

func TestHostileErrors(t *testing.T) {
	leaf := node("leaf", "io.EOF", nil, nil, nil)
	deep := leaf
	for range maxErrorDepth + 1 {
		deep = node("deep", "", []any{deep}, []any{0}, nil)
	}
	for name, hostile := range map[string][]any{
		"cause that isn't there": node("", "", []any{leaf}, []any{1}, nil),
		"negative cause":         node("", "", []any{leaf}, []any{-1}, nil),
		"cause twice":            node("", "", []any{leaf}, []any{0, 0}, nil),
		"too deep":               deep,
		"too many":               node("", "", slices.Repeat([]any{leaf}, maxErrorNodes), nil, nil),
		"nil child":              node("", "", []any{nil}, nil, nil),
		"state of one part":      node("", "", nil, nil, []any{"x"}),
		"number for a text":      {1, "T", "", 0, []any{}, []any{}, nil},
		"five parts":             {"", "T", "", 0, []any{}},
	} {
		_, err := DecodeError(errorBytes(t, hostile...))
		var data *DataError
		assert.ErrorAs(t, err, &data, name)
	}
	for _, data := range [][]byte{nil, {codeNil}, {0xdd, 0xff, 0xff, 0xff, 0xff}, append(errorBytes(t, leaf...), 0)} {
		_, err := DecodeError(data)
		assert.Error(t, err)
	}

	stage, number := typeName(reflect.TypeFor[*stageError]()), typeName(reflect.TypeFor[codeError]())
	for name, hostile := range map[string][]any{
		"unknown type":          node("text", "", []any{leaf}, []any{0}, state("m.nobody", []byte{})),
		"type that can't be":    node("text", "", []any{leaf}, []any{0}, state(typeName(reflect.TypeFor[*secretError]()), []byte{0x92, 0xa0, 0x01})),
		"other state":           node("text", "", []any{leaf}, []any{0}, state(stage, []byte{0x91, 0x01})),
		"no bytes":              node("text", "", []any{leaf}, []any{0}, state(stage, []byte{})),
		"more bytes":            node("text", "", []any{leaf}, []any{0}, state(number, []byte{1, 1})),
		"nil pointer":           node("text", "", []any{leaf}, []any{0}, state(stage, []byte{codeNil})),
		"error that isn't":      node("text", "", []any{leaf}, []any{0}, state(stage, []byte{0x92, 0xa0, codeFalse})),
		"errors beyond":         node("text", "", []any{leaf}, []any{0}, state("github.com/sandboxfn/sbx/registry.listError", []byte{0x92, codeTrue, codeTrue})),
		"error number of Plan9": node("text", "", []any{leaf}, []any{0}, state("syscall.Errno", append([]byte{0x92, 2, 0xa5}, "plan9"...))),
		"unmarshaler panics":    node("text", "", []any{leaf}, []any{0}, state(typeName(reflect.TypeFor[binaryError]()), []byte{0xc4, 0})),
	} {
		got, err := DecodeError(errorBytes(t, hostile...))
		require.NoError(t, err, name)
		assert.EqualError(t, got, "text", name)
		assert.ErrorIs(t, got, io.EOF, name)
		assert.NoError(t, got.value, name)
		assert.NotErrorIs(t, got, fs.ErrNotExist, name)
	}
}

func FuzzDecodeError(f *testing.F) {
	for seed := range int64(40) {
		f.Add(AppendError(nil, randomError(rand.New(rand.NewSource(seed)), 4)))
	}
	f.Add(AppendError(nil, &fieldError{A: io.EOF, Map: map[string]*error{"a": new(error)}, Errno: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got *RemoteError
		var err error
		if used := allocated(func() { got, err = DecodeError(data) }); used > 1<<20+400*uint64(len(data)) {
			t.Fatalf("%d bytes made it allocate %d", len(data), used)
		}
		if err != nil {
			return
		}
		_ = errors.Is(got, fs.ErrClosed)
		var stage *stageError
		if errors.As(got, &stage) {
			assert.NotNil(t, stage)
		}
		again, err := DecodeError(AppendError(nil, got))
		require.NoError(t, err)
		assert.Equal(t, clip(got.Text, maxErrorText), again.Text)
	})
}

// Each name in the table of variables is the variable's own, and no exported one of those packages is missing.
func TestStandardSentinelsAreWhatTheySay(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "sentinel.go", nil, 0)
	require.NoError(t, err)
	imported := map[string]string{}
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		imported[path[strings.LastIndex(path, "/")+1:]] = path
	}
	named := 0
	ast.Inspect(file, func(n ast.Node) bool {
		entry, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		if variable, ok := entry.Value.(*ast.SelectorExpr); ok {
			named++
			assert.Equal(t, strconv.Quote(imported[types.ExprString(variable.X)]+"."+variable.Sel.Name), types.ExprString(entry.Key))
		}
		return true
	})
	assert.Len(t, standardSentinels(), named)

	t.Setenv("GOFLAGS", "") // the importer asks go list outside of this module
	for _, path := range []string{"bufio", "context", "errors", "io", "io/fs", "os", "strconv"} {
		pkg, err := importer.Default().Import(path)
		require.NoError(t, err)
		for _, name := range pkg.Scope().Names() {
			v, ok := pkg.Scope().Lookup(name).(*types.Var)
			if !ok || !v.Exported() || v.Type().String() != "error" {
				continue
			}
			_, known := standardSentinels()[path+"."+name]
			_, alias := standardSentinels()["io/fs."+name]
			alias = alias && path == "os"
			assert.NotEqual(t, alias, known, "%s.%s", path, name)
		}
	}
}

// selfPanic panics with its own kind, which fmt can't print.
type selfPanic struct{ n int }

func (e selfPanic) Error() string { panic(selfPanic{e.n + 1}) }

func TestAnErrorThatPanicsWithItsOwnKind(t *testing.T) {
	remote, err := DecodeError(AppendError(nil, selfPanic{}))
	require.NoError(t, err)
	assert.Equal(t, "(Error() of registry.selfPanic panicked: a registry.selfPanic)", remote.Error())
}

// endless panics with what fmt does not come to the end of, which would overflow the stack and end the process.
type endless struct{}

func (endless) Error() string                  { panic(holdsItself()) }
func (endless) MarshalBinary() ([]byte, error) { panic(holdsItself()) }
func (endless) UnmarshalBinary([]byte) error   { return nil }

func holdsItself() []any {
	slice := []any{nil}
	slice[0] = slice
	return slice
}

func TestPanicsWithWhatHoldsItself(t *testing.T) {
	assert.Equal(t, "(Error() of registry.endless panicked: a []interface {})", remote(t, endless{}).Text)
	codec, err := CodecOf(reflect.TypeFor[endless]())
	require.NoError(t, err)
	value := reflect.New(reflect.TypeFor[endless]()).Elem()
	_, err = codec.Append(nil, value)
	assert.ErrorContains(t, err, "panic: a []interface {}")
}
