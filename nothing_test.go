package sbx_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// arguments are for a method: its context is one, and what else it takes is nothing.
func arguments(method reflect.Type) []reflect.Value {
	var args []reflect.Value
	for i := range method.NumIn() {
		if method.IsVariadic() && i == method.NumIn()-1 {
			break
		}
		if method.In(i) == reflect.TypeFor[context.Context]() {
			args = append(args, reflect.ValueOf(context.Background()))
		} else {
			args = append(args, reflect.Zero(method.In(i)))
		}
	}
	return args
}

// Whoever does not look at an error of Run, Open or Command has a nil, or an empty one: every method then returns an error, or nothing if it has none to return.
func TestEveryMethodOfNothing(t *testing.T) {
	var (
		sandbox *sbx.Sandbox
		command *sbx.Cmd
		file    *sbx.File
		session *sbx.Session
	)
	// Those that return an object of their own, which has the error.
	later := map[string]bool{"Command": true, "CommandContext": true, "FS": true, "Sandbox": true}
	for _, nothing := range []any{sandbox, &sbx.Sandbox{}, command, &sbx.Cmd{}, file, &sbx.File{}, session, &sbx.Session{}, (*sbx.Session)(nil).Sandbox()} {
		object := reflect.ValueOf(nothing)
		for i := range object.NumMethod() {
			name := object.Type().Method(i).Name
			t.Run(fmt.Sprintf("%T, nil %v/%s", nothing, object.IsNil(), name), func(t *testing.T) {
				method := object.Method(i)
				results := method.Call(arguments(method.Type()))
				for _, result := range results {
					if err, isErr := result.Interface().(error); isErr {
						assert.ErrorContains(t, err, "sbx: ")
					} else if result.Type() == reflect.TypeFor[error]() {
						assert.Fail(t, "no error")
					} else if name != "String" && name != "GoString" && !later[name] {
						assert.Empty(t, result.Interface())
					}
				}
			})
		}
	}
	require.Error(t, sandbox.Command("true").Run())
	_, err := fs.ReadFile(sandbox.FS(t.Context(), "/"), "x")
	require.Error(t, err)
	require.Error(t, session.Sandbox().Start(t.Context()))
	assert.NotEmpty(t, fmt.Sprintf("%v %+v %#v", sandbox, command, file))
	require.Error(t, command.Signal(syscall.SIGTERM))
	require.Error(t, command.Signal(os.Signal(nil)))
	sbx.CloseOnSignal()()
	sbx.CloseOnSignal(nil, session)()
}
