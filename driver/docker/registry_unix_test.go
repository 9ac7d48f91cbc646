//go:build unix && !sbxworker

package docker

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who starts a sandbox, or closes its session, waits for no credential helper that asks a user who is not there.
func TestACredentialHelperThatHangs(t *testing.T) {
	folder := t.TempDir()
	helper := filepath.Join(folder, "docker-credential-hangs")
	require.NoError(t, syscall.Mkfifo(helper+".pipe", 0o600))
	require.NoError(t, os.WriteFile(helper, []byte("#!/bin/sh\nexec cat \"$0.pipe\"\n"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "config.json"), []byte(`{"credsStore": "hangs"}`), 0o600))
	t.Setenv("DOCKER_CONFIG", folder)
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := credentials(ctx, "registry.example/a:1")
		ended <- err
	}()
	pipe, err := os.OpenFile(helper+".pipe", os.O_WRONLY, 0) // which waits until the helper runs
	require.NoError(t, err)
	defer pipe.Close()
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
}
