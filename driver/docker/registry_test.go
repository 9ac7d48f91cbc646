//go:build !sbxworker

package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/worker"
)

// configure writes what docker login writes.
func configure(t *testing.T, registries ...string) {
	folder := t.TempDir()
	t.Setenv("DOCKER_CONFIG", folder)
	var auths []string
	for _, one := range registries {
		auths = append(auths, fmt.Sprintf(`%q: {"auth": %q}`, one, base64.StdEncoding.EncodeToString([]byte("me:open"))))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "config.json"), []byte(`{"auths": {`+strings.Join(auths, ",")+`}}`), 0o600))
}

func TestCredentials(t *testing.T) {
	configure(t, "registry.example", "https://index.docker.io/v1/")
	for image, known := range map[string]bool{
		"registry.example/a/b:1": true, "registry.example/a/b@sha256:" + strings.Repeat("0", 64): true, "busybox:stable": true, "me/mine": true,
		"other.example/a:1": false, "registry.example:5000/a:1": false,
	} {
		encoded, err := credentials(t.Context(), image)
		require.NoError(t, err, image)
		assert.Equal(t, known, encoded != "", image)
		if known {
			decoded, err := authconfig.Decode(encoded)
			require.NoError(t, err, image)
			assert.Equal(t, "me open", decoded.Username+" "+decoded.Password, image)
		}
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(`{"credsStore": "no-such-helper"}`), 0o600))
	_, err := credentials(t.Context(), "registry.example/a:1")
	require.ErrorContains(t, err, "registry.example")
}

// registryVariable has the test's own program serve a registry, in a container: the engine may be in a network of its own.
const registryVariable = "SBX_TEST_REGISTRY"

// serveRegistry serves an image to who logs in as me, and prints its name.
func serveRegistry() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	image := listener.Addr().String() + "/private/image:1"
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "open" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	ref, err := name.ParseReference(image)
	if err != nil {
		return err
	}
	made, err := random.Image(1<<20, 3)
	if err != nil {
		return err
	}
	config, err := made.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if made, err = mutate.ConfigFile(made, config); err != nil {
		return err
	}
	if err := remote.Write(ref, made, remote.WithAuth(&authn.Basic{Username: "me", Password: "open"})); err != nil {
		return err
	}
	fmt.Println(image)
	return <-ended
}

// startRegistry returns the name of the image that a registry serves beside the engine.
func startRegistry(t *testing.T, image string) string {
	api := testEngine(t)
	created, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Config:     &container.Config{Image: image, Entrypoint: []string{"/registry"}, Env: []string{registryVariable + "=1"}, Tty: true},
		HostConfig: &container.HostConfig{NetworkMode: "host"},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := api.ContainerRemove(context.Background(), created.ID, client.ContainerRemoveOptions{Force: true})
		assert.NoError(t, err)
	})
	program, err := worker.Executable()
	require.NoError(t, err)
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "registry", Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = api.CopyToContainer(t.Context(), created.ID, client.CopyToContainerOptions{DestinationPath: "/", Content: &archive})
	require.NoError(t, err)
	_, err = api.ContainerStart(t.Context(), created.ID, client.ContainerStartOptions{})
	require.NoError(t, err)
	output, err := api.ContainerLogs(t.Context(), created.ID, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	require.NoError(t, err)
	defer output.Close()
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// An image is pulled from a registry that wants to know who asks.
func TestPull(t *testing.T) {
	image, _ := testImages(t)
	private := startRegistry(t, image)
	address, _, _ := strings.Cut(private, "/")
	t.Cleanup(func() {
		_, err := testEngine(t).ImageRemove(context.Background(), private, client.ImageRemoveOptions{Force: true})
		assert.True(t, err == nil || errdefs.IsNotFound(err), "%v", err)
	})
	configure(t)
	_, err := New(&Options{Image: private}).Open(t.Context(), driver.SessionSpec{
		ID: "private", Worker: func(context.Context, driver.Platform) (string, error) { return worker.Executable() }, Logger: discard,
	})
	var wrong *driver.ImageError
	require.ErrorAs(t, err, &wrong)
	if strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		t.Skipf("the engine, as Podman, takes no registry of this machine without TLS: %v", err)
	}
	assert.ErrorContains(t, err, "docker login")
	configure(t, address)
	run(t, openTest(t, New(&Options{Image: private}), "private"), "one")
}
