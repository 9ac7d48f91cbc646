//go:build !sbxworker

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// Where things are in containers.
const (
	workerFolder = "/.sbx/worker"
	socketFolder = "/.sbx/socket"
	workFolder   = "/work"
)

// The worker's volume has folders with random names, each with a copy of the worker, of which no two are made by the same copier; so nobody
// changes a copy that another one runs. The file that is named complete names one which is whole.
const (
	workerName   = "worker"
	completeName = "complete"
	// maxComplete bounds what is read of the file.
	maxComplete = 64 << 10
)

// stage is where a session's worker is at the engine. Its container is never started: it is how files get into the volume, and keeps that from
// being removed.
type stage struct {
	volume    string // its name
	path      string // of the worker, in sandboxes
	container string // its id
}

// stageWorker sees to it that the engine has the worker, whole.
func (s *session) stageWorker(ctx context.Context, file string) (err error) {
	worker, err := os.Open(file)
	if err != nil {
		return err
	}
	defer worker.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, worker)
	if err != nil {
		return err
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	volume := "sbx-worker-" + hash[:32]
	if _, err := s.engine.VolumeCreate(ctx, client.VolumeCreateOptions{Name: volume, Labels: workerLabels()}); err != nil {
		return fmt.Errorf("make the volume %s: %w", volume, err)
	}
	created, err := s.engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: s.driver.Image, Entrypoint: []string{"/never-started"}, Labels: s.labels()},
		HostConfig: &container.HostConfig{NetworkMode: noNetwork, Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: volume, Target: workerFolder, VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: workerLabels()},
		}}},
	})
	if err != nil {
		return fmt.Errorf("make a container to copy the worker into: %w", err)
	}
	s.stage = stage{volume: volume, container: created.ID}
	folder, err := s.whole(ctx)
	if err == nil && folder == "" {
		folder, err = s.copyWorker(ctx, worker, size, hash)
	}
	s.stage.path = path.Join(workerFolder, folder, workerName)
	return err
}

// whole returns the name of the folder with a whole worker; empty if there is none.
func (s *session) whole(ctx context.Context) (string, error) {
	var content bytes.Buffer
	err := s.read(ctx, completeName, maxComplete, &content)
	switch folder := content.String(); {
	case errdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for the worker in the volume %s: %w", s.stage.volume, err)
	case len(folder) != len(newName()): // somebody is writing it
		return "", nil
	default:
		return folder, nil
	}
}

// newName is a name that nobody else has.
func newName() string { return strings.ToLower(rand.Text()) }

// copyWorker copies the worker into the volume, reads it again, and says then that it is whole.
func (s *session) copyWorker(ctx context.Context, worker io.ReadSeeker, size int64, hash string) (folder string, err error) {
	folder = newName()
	if _, err := worker.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := s.write(ctx, folder, workerName, worker, size); err != nil {
		return "", fmt.Errorf("copy the worker to the engine: %w", err)
	}
	sum := sha256.New()
	if err := s.read(ctx, path.Join(folder, workerName), size, sum); err != nil {
		return "", fmt.Errorf("read the worker that was copied to the engine: %w", err)
	}
	if has := hex.EncodeToString(sum.Sum(nil)); has != hash {
		return "", errors.New("the worker is not at the engine what it is here; has the file changed?")
	}
	if err := s.write(ctx, "", completeName, strings.NewReader(folder), int64(len(folder))); err != nil {
		return "", fmt.Errorf("say that the worker was copied to the engine: %w", err)
	}
	return folder, nil
}

// write writes a file into the volume, in a new folder if that is named.
func (s *session) write(ctx context.Context, folder, name string, content io.Reader, size int64) error {
	var headers bytes.Buffer
	archive := tar.NewWriter(&headers)
	if folder != "" {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(folder, name), Mode: 0o755, Size: size}); err != nil {
		return err
	}
	const block = 512
	end := make([]byte, (block-size%block)%block+2*block) // what fills the last block, and two empty ones
	_, err := s.engine.CopyToContainer(ctx, s.stage.container, client.CopyToContainerOptions{
		DestinationPath: workerFolder, Content: io.MultiReader(&headers, io.LimitReader(content, size), bytes.NewReader(end)),
	})
	return err
}

// read reads a file of the volume that has at most limit bytes.
func (s *session) read(ctx context.Context, name string, limit int64, to io.Writer) error {
	result, err := s.engine.CopyFromContainer(ctx, s.stage.container, client.CopyFromContainerOptions{SourcePath: path.Join(workerFolder, name)})
	if err != nil {
		return err
	}
	defer result.Content.Close()
	archive := tar.NewReader(result.Content)
	header, err := archive.Next()
	if err != nil {
		return err
	}
	if header.Size > limit {
		return fmt.Errorf("%s has %d bytes, more than %d", name, header.Size, limit)
	}
	_, err = io.Copy(to, archive)
	return err
}
