//go:build !sbxworker

package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
)

// serveAsAnother makes the engine one that may reach no file of this user, as a rootless one of another user, and returns its address.
func serveAsAnother(t *testing.T) string {
	engine := docker.TestEngine(t)
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return engine.Dialer()(ctx) }}
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" }}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(r.URL.Path) == "create" && filepath.Base(filepath.Dir(r.URL.Path)) == "containers" {
			body, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			r.Body = io.NopCloser(bytes.NewReader(body))
			var asked struct{ HostConfig container.HostConfig }
			assert.NoError(t, json.Unmarshal(body, &asked))
			for _, m := range asked.HostConfig.Mounts {
				if m.Type == mount.TypeBind {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusBadRequest)
					_, _ = w.Write([]byte(`{"message":"invalid mount config for type \"bind\": stat ` + m.Source + `: permission denied"}`))
					return
				}
			}
		}
		proxy.ServeHTTP(w, r)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		assert.NoError(t, server.Close())
		<-ended
		transport.CloseIdleConnections()
	})
	return "unix://" + socket
}

// An engine on this machine that may not reach the program's sockets is reached by streams, and says which mount it may not reach.
func TestEngineOfAnotherUser(t *testing.T) {
	image, _ := docker.TestImages(t)
	u := use(t, docker.New(&docker.Options{Image: image, Host: serveAsAnother(t)}))
	u.double()
	_, err := u.Function2(Double, sbx.Mount(t.TempDir(), "/data")).Call(t.Context(), 1, 0)
	refused, ok := errors.AsType[*driver.MountError](err)
	require.True(t, ok, "%v", err)
	require.ErrorIs(t, err, os.ErrPermission)
	assert.NotEmpty(t, refused.Remedies)
	u.double()
}
