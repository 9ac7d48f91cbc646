package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/sandboxfn/sbx/internal/artifact"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a worker")
	}
	t.Setenv("SBX_CACHE", t.TempDir())
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	hello := filepath.Join("..", "..", "examples", "hello")
	image := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		require.Zero(t, run(t.Context(), append(append([]string{"image", "-C", hello}, args...), "."), &stdout, &stderr), "%s", &stderr)
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		return lines[len(lines)-1]
	}

	first := image("-base", "scratch", "-push", host+"/base:1")
	ref, err := name.ParseReference(first)
	require.NoError(t, err, "it prints what can be pulled")
	pulled, err := remote.Image(ref)
	require.NoError(t, err)
	layers, err := pulled.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	contents, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer contents.Close()
	files := tar.NewReader(contents)
	header, err := files.Next()
	require.NoError(t, err)
	assert.Equal(t, artifact.ImageFolder+"/", "/"+header.Name)
	header, err = files.Next()
	require.NoError(t, err)
	hash := sha256.New()
	_, err = io.Copy(hash, files)
	require.NoError(t, err)
	assert.Equal(t, artifact.ImageFolder+"/"+hex.EncodeToString(hash.Sum(nil)), "/"+header.Name)
	assert.EqualValues(t, 0o555, header.Mode)

	t.Setenv("SBX_CACHE", t.TempDir())
	again := image("-base", "scratch", "-push", host+"/again:1")
	assert.Equal(t, first[strings.Index(first, "@"):], again[strings.Index(again, "@"):], "the same image again, from a worker that was built again")

	file := filepath.Join(t.TempDir(), "image.tar")
	image("-base", host+"/base:1", "-o", file, "-tag", "local/hello:1")
	written, err := tarball.ImageFromPath(file, nil)
	require.NoError(t, err)
	layers, err = written.Layers()
	require.NoError(t, err)
	assert.Len(t, layers, 2, "the base's, and its own")
}

func TestImageIsRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"-base is missing":   {"-push", "example.com/a"},
		"give -push":         {"-base", "scratch"},
		"-o and -tag belong": {"-base", "scratch", "-o", "a.tar"},
		"could not parse":    {"-base", "scratch", "-push", "No Reference"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, 2, run(t.Context(), append([]string{"image"}, args...), &stdout, &stderr), want)
		assert.Contains(t, stderr.String(), want)
	}
}

func TestImageOfARegistryThatWantsALogin(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")

	var stdout, stderr bytes.Buffer
	assert.Equal(t, 1, run(t.Context(), []string{"image", "-base", host + "/base:1", "-push", host + "/made:1"}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "docker login "+host)
	ref, err := name.ParseReference(host + "/made:1")
	require.NoError(t, err)
	assert.ErrorContains(t, withLogin(remote.Write(ref, empty.Image), ref), "docker login "+host)
}
