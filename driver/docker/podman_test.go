//go:build !sbxworker

package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
)

// serveEngine serves at a socket of the test's, and returns its address.
func serveEngine(t *testing.T, handler http.Handler) string {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: handler}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		assert.NoError(t, server.Close())
		<-ended
	})
	return "unix://" + socket
}

// playPodman serves what Podman 4.3 says of itself, and returns its address.
func playPodman(t *testing.T, own string, status int) string {
	answers := map[string]string{
		"/_ping": "OK",
		// The limits are the kernel's.
		"/v1.41/info":         `{"OSType":"linux","Architecture":"amd64","MemoryLimit":true,"CpuCfsQuota":true,"PidsLimit":true,"SecurityOptions":["name=seccomp,profile=default"]}`,
		"/v1.41/version":      `{"ApiVersion":"1.41","Components":[{"Name":"Podman Engine","Version":"4.3.1","Details":{"APIVersion":"4.3.1"}},{"Name":"Conmon","Version":"conmon version 2.1.6"}]}`,
		"/v4.3.1/libpod/info": own,
	}
	return serveEngine(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/v4.3.1/libpod/info":
			w.WriteHeader(status)
		}
		_, _ = w.Write([]byte(answer))
	}))
}

// Podman says in Docker's API that it holds every limit that the kernel can, and ignores limits where it has no cgroups.
func TestPodmanSaysWhatItHolds(t *testing.T) {
	cgroups := []string{driver.LimitCPUs, driver.LimitMemory, driver.LimitProcesses}
	for own, held := range map[string][]string{
		`{"host":{"cgroupManager":"cgroupfs","cgroupControllers":["cpuset","cpu","memory","pids"],"security":{"rootless":false}}}`: cgroups,
		`{"host":{"cgroupManager":"systemd","cgroupControllers":["memory","pids"],"security":{"rootless":true}}}`:                  cgroups[1:],
		`{"host":{"cgroupManager":"cgroupfs","cgroupControllers":["cpu","memory","pids"],"security":{"rootless":true}}}`:           nil,
		`{"host":{"cgroupManager":"cgroupfs","cgroupControllers":[],"security":{"rootless":true}}}`:                                nil,
	} {
		e, err := find(t.Context(), Options{Host: playPodman(t, own, http.StatusOK)})
		require.NoError(t, err)
		assert.True(t, e.podman)
		report := e.report(Options{})
		var got []string
		for _, name := range cgroups {
			if c := report.Capability(name); c.Held {
				got = append(got, name)
			} else {
				assert.NotEmpty(t, c.Remedies)
			}
		}
		assert.Equal(t, held, got, own)
		assert.NoError(t, e.Close())
	}
	for own, status := range map[string]int{"nonsense": http.StatusOK, `{}`: http.StatusInternalServerError} {
		_, err := find(t.Context(), Options{Host: playPodman(t, own, status)})
		var unavailable *driver.UnavailableError
		require.ErrorAs(t, err, &unavailable)
		assert.ErrorContains(t, err, "libpod/info")
	}
}

// serveAsAnother makes the engine one that may reach no file of this user, as a rootless one of another user, and returns its address.
func serveAsAnother(t *testing.T) string {
	engine := testEngine(t)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return engine.Dialer()(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" }}
	return serveEngine(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	}))
}
