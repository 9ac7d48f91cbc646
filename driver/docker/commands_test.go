//go:build !sbxworker

package docker_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
)

// Commands, terminals and files are the worker's, so they work as with every driver; this is what the container must have for them.
func TestCommands(t *testing.T) {
	each(t, func(u *user) {
		sb := u.Sandbox(sbx.Env("GREETING", "hello"))
		cmd := sb.Command("sh", "-c", `echo "$GREETING $(id -u) $(pwd)"; cat; exit 3`)
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout = strings.NewReader("from here\n"), &out
		err := cmd.Run()
		require.ErrorContains(u, err, "exit status 3")
		assert.Equal(u, "hello 65532 /work\nfrom here\n", out.String())

		terminal := sb.Command("sh", "-c", "test -t 0 && stty size; echo done")
		terminal.Terminal = &sbx.Terminal{Rows: 10, Columns: 40}
		shown, err := terminal.Output()
		require.NoError(u, err)
		assert.Equal(u, "10 40\r\ndone\r\n", string(shown))

		source := u.TempDir()
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // a MiB
		require.NoError(u, os.WriteFile(filepath.Join(source, "file"), want, 0o600))
		require.NoError(u, sb.CopyTo(u.Context(), source, "tree"))
		got, err := sb.ReadFile(u.Context(), "tree/file")
		require.NoError(u, err)
		assert.True(u, bytes.Equal(want, got))
		require.NoError(u, sb.WriteFile(u.Context(), "run", []byte("#!/bin/sh\necho ran\n"), 0o700))
		ran, err := sb.Command("./run").Output()
		require.NoError(u, err, "programs can be run from /work")
		assert.Equal(u, "ran\n", string(ran))
		require.NoError(u, sb.Stop(u.Context()))
	})
}

// Python is in its image, and the worker needs nothing of that.
func TestAnotherImage(t *testing.T) {
	_, other := docker.TestImages(t)
	if !strings.Contains(other, "python") {
		t.Skip("the second image is not one with Python")
	}
	each(t, func(u *user) {
		out, err := u.Sandbox(sbx.Image(other)).Command("python3", "-c", "import json; print(json.dumps([1, 2]))").Output()
		require.NoError(u, err)
		assert.Equal(u, "[1, 2]\n", string(out))
		got, err := u.Function2(Double, sbx.Image(other)).Call(u.Context(), 4, 0)
		require.NoError(u, err)
		assert.Equal(u, 8, got)
	})
}

// A container that somebody pauses says nothing, and is given up.
func TestPaused(t *testing.T) {
	each(t, func(u *user) {
		call := u.Function2(Double).Spawn(u.Context(), 1, time.Hour)
		u.runs()
		running := u.containers()
		require.Len(u, running, 1)
		_, err := u.engine.ContainerPause(u.Context(), running[0].ID, client.ContainerPauseOptions{})
		if err != nil && !u.Report().Capability(driver.LimitMemory).Held {
			u.Skipf("the engine has no cgroups, by which it could pause: %v", err)
		}
		require.NoError(u, err)
		_, err = call.Result(u.Context())
		require.ErrorContains(u, err, "sign of life")
		u.double()
	}, sbx.Lease(2*time.Second))
}
