package sbx_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSecretsStayWithTheirSandbox looks for a secret in what the system tells of every process of this machine.
func TestSecretsStayWithTheirSandbox(t *testing.T) {
	const value = "secret-of-one-sandbox-4711"
	session := openLocal(t)
	with, without := session.Sandbox(sbx.Secret("TOKEN", constant(value))), session.Sandbox()
	holder := with.Command("sh", "-c", "echo $TOKEN; sleep 1000")
	output, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	first := make([]byte, len(value))
	_, err = output.Read(first)
	require.NoError(t, err)
	assert.Equal(t, value, string(first), "it is there")
	require.NoError(t, without.Start(t.Context()))

	find := `for f in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do tr '\0' '\n' < $f 2>/dev/null; done | grep -c "[s]ecret-of-one-sandbox" || true`
	seen, err := without.Command("sh", "-c", find).Output()
	require.NoError(t, err)
	assert.Equal(t, "0\n", string(seen), "another sandbox sees it")
	seen, err = with.Command("sh", "-c", find).Output()
	require.NoError(t, err)
	assert.NotEqual(t, "0\n", string(seen), "the check would see it")

	// What this machine tells: of arguments to everyone, of environments to the user and root.
	inside := map[string]bool{}
	for _, name := range []string{"cmdline", "environ"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + name)
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(data, []byte(value)) {
				continue // it ended, or is another user's
			}
			assert.Equal(t, "environ", name, "%s: arguments: %q", path, data)
			space, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid"))
			require.NoError(t, err)
			inside[space] = true
		}
	}
	if os.Getuid() == 0 {
		assert.Len(t, inside, 1, "process spaces in which it is")
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	require.NoError(t, err)
	assert.False(t, inside[own], "a process outside of sandboxes has it")
	require.NoError(t, holder.Kill())
	require.Error(t, holder.Wait())
}

func TestASecretFromAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	session := openLocal(t)
	secret := sbx.Secret("TOKEN", sbx.SecretFile(pipe))
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		sb := session.Sandbox(secret)
		require.ErrorIs(t, sb.Start(ctx), context.DeadlineExceeded)
		cancel()
		require.NoError(t, sb.Stop(t.Context()))
	}
	assert.Eventually(t, func() bool { return runtime.NumGoroutine() < before+10 }, long, 10*time.Millisecond, "whoever reads it stays")

	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = os.WriteFile(pipe, []byte("value\n"), 0)
	}()
	value, err := session.Sandbox(secret).Command("printenv", "TOKEN").Output()
	require.NoError(t, err)
	assert.Equal(t, "value\n", string(value))

	// As a shell's <(...) is: what it has is there at once, or never, and is no empty value then.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	_, err = w.WriteString("value")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	secret = sbx.Secret("TOKEN", sbx.SecretFile(fmt.Sprintf("/dev/fd/%d", r.Fd())))
	value, err = session.Sandbox(secret).Command("printenv", "TOKEN").Output()
	require.NoError(t, err)
	assert.Equal(t, "value\n", string(value))
	require.ErrorContains(t, session.Sandbox(secret).Start(t.Context()), "gives its value once")

	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	value, err = session.Sandbox(sbx.Secret("TOKEN", sbx.SecretFile(empty))).Command("printenv", "TOKEN").Output()
	require.NoError(t, err)
	assert.Equal(t, "\n", string(value))
}
