//go:build !sbxworker

package docker_test

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
)

// An engine on this machine that may not reach the program's sockets is reached by streams, and says which mount it may not reach.
func TestEngineOfAnotherUser(t *testing.T) {
	image, _ := docker.TestImages(t)
	u := use(t, docker.New(&docker.Options{Image: image, Host: docker.ServeAsAnother(t)}))
	u.double()
	_, err := u.Function2(Double, sbx.Mount(t.TempDir(), "/data")).Call(t.Context(), 1, 0)
	refused, ok := errors.AsType[*driver.MountError](err)
	require.True(t, ok, "%v", err)
	require.ErrorIs(t, err, os.ErrPermission)
	assert.NotEmpty(t, refused.Remedies)
	u.double()
}
