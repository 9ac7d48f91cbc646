package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func constant(value string) sbx.SecretSource {
	return sbx.SecretFunc(func(context.Context) (string, error) { return value, nil })
}

func TestSecretsComeFromTheirSources(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("from a file\r\n"), 0o600))
	t.Setenv("SECRET_OF_A_TEST", "from the environment\n")
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Secret("A", sbx.SecretFile(path)))
		getenv := session.Function(Getenv, sbx.Env("D", "plain"), sbx.Secret("B", sbx.SecretEnv("SECRET_OF_A_TEST")), sbx.Secret("C", constant("from a function")))
		for key, want := range map[string]string{"A": "from a file", "B": "from the environment\n", "C": "from a function", "D": "plain"} {
			value, err := getenv.Call(t.Context(), key)
			require.NoError(t, err)
			assert.Equal(t, want, value)
		}
		value, err := session.Function(Getenv).Call(t.Context(), "B")
		require.NoError(t, err)
		assert.Empty(t, value, "another function's")
	})
}

// A value is read for each sandbox, so that a new one counts from then on.
func TestSecretsAreReadForEachSandbox(t *testing.T) {
	var reads atomic.Int32
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Secret("N", sbx.SecretFunc(func(context.Context) (string, error) {
		return fmt.Sprint(reads.Add(1)), nil
	})))
	once := session.Function(Getenv, sbx.MaxUses(1))
	for _, want := range []string{"1", "2", "3"} {
		value, err := once.Call(t.Context(), "N")
		require.NoError(t, err)
		assert.Equal(t, want, value)
	}
}

func TestTheSameSecretIsOneAndOthersConflict(t *testing.T) {
	token := constant("x")
	a, b := sbx.Secret("A", token), sbx.Secret("B", sbx.SecretEnv("PATH"))
	session := sbxtest.Open(t, sbx.Driver(process.New()), a, sbx.Env("PLAIN", "x"))
	same := session.Function0(Where, sbx.Secret("A", token), b, sbx.Secret("B", sbx.SecretEnv("PATH")))
	require.NoError(t, same.Err())
	first, err := same.Call(t.Context())
	require.NoError(t, err)
	second, err := session.Function0(Where, b, a).Call(t.Context())
	require.NoError(t, err)
	assert.Equal(t, first.Sandbox, second.Sandbox, "the order makes no other kind of sandbox")
	third, err := session.Function0(Where).Call(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, first.Sandbox, third.Sandbox, "other secrets do")

	var option *sbx.OptionError
	for name, opts := range map[string][]sbx.FunctionOption{
		"another function":     {sbx.Secret("A", constant("x"))},
		"another kind":         {sbx.Secret("A", sbx.SecretEnv("A"))},
		"another variable":     {b, sbx.Secret("B", sbx.SecretEnv("HOME"))},
		"another file":         {sbx.Secret("C", sbx.SecretFile("/c")), sbx.Secret("C", sbx.SecretFile("/d"))},
		"Env after":            {sbx.Env("A", "x")},
		"Env before":           {sbx.Secret("PLAIN", token)},
		"no name":              {sbx.Secret("", token)},
		"a bad name":           {sbx.Secret("A=B", token)},
		"a name of sbx":        {sbx.Secret("SBX_A", token)},
		"no source":            {sbx.Secret("C", sbx.SecretSource{})},
		"no function":          {sbx.Secret("C", sbx.SecretFunc(nil))},
		"no file":              {sbx.Secret("C", sbx.SecretFile(""))},
		"no variable":          {sbx.Secret("C", sbx.SecretEnv(""))},
		"joined in one option": {sbx.Join(b, sbx.Secret("B", token))},
	} {
		require.ErrorAs(t, session.Function0(Where, opts...).Err(), &option, name)
	}
	err = session.Function0(Where, sbx.Secret("A", sbx.SecretFile("/a"))).Err()
	assert.ErrorContains(t, err, `"A" comes from a function and from the file "/a"`)
}

func TestSecretsThatCantBeHad(t *testing.T) {
	long := filepath.Join(t.TempDir(), "long")
	require.NoError(t, os.WriteFile(long, make([]byte, 1<<20), 0o600))
	mine := errors.New("the vault is shut")
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	for name, c := range map[string]struct {
		source sbx.SecretSource
		want   string
		is     error
	}{
		"unset":   {sbx.SecretEnv("NOT_SET_ANYWHERE"), `secret "TOKEN" from the environment variable "NOT_SET_ANYWHERE": it is not set in this program's environment; set it there`, nil},
		"no file": {sbx.SecretFile("/no/such/file"), "/no/such/file", fs.ErrNotExist},
		"failing": {sbx.SecretFunc(func(context.Context) (string, error) { return "hunter2", mine }), "the vault is shut", mine},
		"panic":   {sbx.SecretFunc(func(context.Context) (string, error) { panic("no vault at all") }), "its function panicked: no vault at all", nil},
		"nil":     {sbx.SecretFunc(func(context.Context) (string, error) { var none *fs.PathError; return "hunter2", none }), "an error of type *fs.PathError, whose methods can't be called", nil},
		"NUL":     {constant("hunter2\x00"), "give it to the sandbox as a file", nil},
		"long":    {constant("hunter2" + strings.Repeat("x", 128<<10)), "longer than", nil},
		"no box":  {sbx.SecretFunc(func(context.Context) (string, error) { return "", sbx.ErrNotRunning }), "no sandbox could be started", sbx.ErrNotRunning},
		"endless": {sbx.SecretFile("/dev/zero"), "NUL", nil},
	} {
		_, err := session.Function0(Where, sbx.Secret("TOKEN", c.source)).Call(t.Context())
		var secret *sbx.SecretError
		require.ErrorAs(t, err, &secret, name)
		var start *sbx.StartError
		require.ErrorAs(t, err, &start, name)
		assert.Equal(t, "TOKEN", secret.Name)
		assert.ErrorContains(t, err, c.want, name)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, name)
		}
		assert.NotContains(t, err.Error(), "hunter2")
	}
	assert.Zero(t, session.SandboxCount())
}

// A source that does not answer holds up neither Stop nor Close.
func TestASecretThatBlocks(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.Logger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	release, begun := make(chan struct{}), make(chan struct{}, 2)
	defer close(release)
	sb := session.Sandbox(sbx.Secret("TOKEN", sbx.SecretFunc(func(context.Context) (string, error) {
		begun <- struct{}{}
		<-release
		return "", nil
	})))
	started := make(chan error, 1)
	go func() { started <- sb.Start(t.Context()) }()
	<-begun
	begin := time.Now()
	require.NoError(t, session.Close())
	assert.Less(t, time.Since(begin), 10*time.Second)
	require.ErrorIs(t, <-started, sbx.ErrClosed)
}

// TestSecretsAreNeverTold does with a secret what makes errors, records and texts, and looks for its value in them.
func TestSecretsAreNeverTold(t *testing.T) {
	const value = "hunter2"
	source := constant(value)
	secret := sbx.Secret("TOKEN", source)
	var told []string
	tell := func(what any) { told = append(told, fmt.Sprintf("%v %+v %#v %s %q", what, what, what, what, what)) }
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		var log bytes.Buffer
		session, err := sbx.Open(t.Context(), on, secret, sbx.Logger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		require.NoError(t, err)
		leak := session.Function(Leak)
		for _, how := range []string{"", "error", "panic", "exit", "crash"} {
			_, err := leak.Call(t.Context(), how)
			tell(err)
		}
		for _, opt := range []sbx.FunctionOption{sbx.Env("TOKEN", "x"), sbx.Secret("TOKEN", constant(value)), sbx.Env("INIT", "panics")} {
			remote := session.Function(Leak, opt)
			tell(remote.Err())
			_, err := remote.Call(t.Context(), "")
			tell(err)
			tell(remote)
		}
		sb := session.Sandbox()
		tell(sb)
		require.NoError(t, sb.Start(t.Context()))
		tell(sb)
		got, err := session.Function(Getenv).In(sb).Call(t.Context(), "TOKEN")
		require.NoError(t, err)
		assert.Equal(t, value, got, "the check looks for what is there")
		cmd := sb.Command("/bin/sh", "-c", "exit 3")
		tell(cmd.Run())
		told = append(told, cmd.String())
		tell(sb.Command("/no/such/program").Run())
		tell(sb.Status())
		tell(session)
		tell(session.Stats())
		tell(session.Report())
		tell(secret)
		tell(source)
		require.NoError(t, session.Close())
		tell(sb.Start(t.Context()))
		told = append(told, log.String())
	})
	for _, text := range told {
		assert.NotContains(t, text, value)
	}
	assert.Contains(t, strings.Join(told, "\n"), "on purpose", "the check sees what is told")
}
