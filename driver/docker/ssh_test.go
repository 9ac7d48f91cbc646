//go:build !sbxworker

package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/worker"
)

// sshVariable has the test's own program, where its name is ssh, connect to the socket that it names.
const sshVariable = "SBX_TEST_SSH_SOCKET"

// playSSH is what ssh and, at the other end, docker system dial-stdio are together.
func playSSH(socket string) error {
	if line := strings.Join(os.Args[1:], " "); !strings.Contains(line, "-l me") || !strings.HasSuffix(line, "-- host docker system dial-stdio") {
		return errors.New("unexpected arguments: " + line)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return errors.New("permission denied (publickey)")
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// installSSH puts an ssh into PATH that reaches the engine of the tests.
func installSSH(t *testing.T, socket string) {
	folder := t.TempDir()
	program, err := worker.Executable()
	require.NoError(t, err)
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "ssh"), content, 0o755))
	t.Setenv("PATH", folder)
	t.Setenv(sshVariable, socket)
}

func TestEngineBySSH(t *testing.T) {
	image, _ := testImages(t)
	socket, ok := strings.CutPrefix(testEngine(t).DaemonHost(), "unix://")
	if !ok {
		t.Skip("the engine has no socket here")
	}
	installSSH(t, socket)
	run(t, openTest(t, New(&Options{Image: image, Host: "ssh://me@host"}), "ssh"), "one")
	t.Setenv(client.EnvOverrideHost, "ssh://me@host")
	session, err := New(&Options{Image: image}).Open(t.Context(), driver.SessionSpec{
		ID: "ssh-too", Worker: func(context.Context, driver.Platform) (string, error) { return worker.Executable() }, Logger: discard,
	})
	require.NoError(t, err)
	run(t, session, "one")
	require.NoError(t, session.Close(t.Context()))
}

// Where ssh does not reach an engine, its own words say why.
func TestNoEngineBySSH(t *testing.T) {
	installSSH(t, filepath.Join(t.TempDir(), "none.sock"))
	_, err := New(&Options{Host: "ssh://me@host"}).Open(t.Context(), driver.SessionSpec{ID: "ssh", Logger: discard})
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	assert.ErrorContains(t, err, "permission denied (publickey)")
	assert.ErrorContains(t, err, "docker version")
}
