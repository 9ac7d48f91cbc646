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

// stage is where a session's worker is at the engine.
type stage struct {
	session *session
	file    *os.File // the worker, as it was when the session opened
	size    int64
	hash    string
	volume  string // its name

	turn chan struct{} // has one entry, of who copies or looks
	path string        // of the worker, in sandboxes; guarded by turn
}

// newStage opens the worker.
func (s *session) newStage(path string) (_ *stage, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	return &stage{session: s, file: file, size: size, hash: hash, volume: "sbx-worker-" + hash[:32], turn: make(chan struct{}, 1)}, nil
}

// close is called when nobody uses the stage.
func (s *stage) close() {
	if s != nil {
		_ = s.file.Close()
	}
}

// ready sees to it that the engine has the worker, whole, and returns its path in sandboxes. missing is a path at which it was not found: the volume
// can be removed by others while no sandbox shows it.
func (s *stage) ready(ctx context.Context, missing string) (string, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if s.path != missing {
		return s.path, nil
	}
	engine := s.session.engine
	if _, err := engine.VolumeCreate(ctx, client.VolumeCreateOptions{Name: s.volume, Labels: workerLabels()}); err != nil {
		return "", fmt.Errorf("make the volume %s: %w", s.volume, err)
	}
	// It is never started: files get into volumes only by way of a container.
	// What was asked for must be known, to be removed.
	createCtx, cancelCreate := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	defer cancelCreate()
	created, err := engine.ContainerCreate(createCtx, client.ContainerCreateOptions{
		Config: &container.Config{Image: s.session.driver.Image, Entrypoint: []string{"/never-started"}, Labels: s.session.labels()},
		HostConfig: &container.HostConfig{NetworkMode: noNetwork, Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: s.volume, Target: workerFolder, VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: workerLabels()},
		}}},
	})
	if err != nil {
		return "", fmt.Errorf("make a container to copy the worker into: %w", err)
	}
	c := copier{engine, created.ID}
	folder, err := c.whole(ctx)
	if err == nil && folder == "" {
		folder, err = c.copy(ctx, s)
	}
	removeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	defer cancel()
	if err := errors.Join(err, engine.remove(removeCtx, created.ID)); err != nil {
		return "", fmt.Errorf("bring the worker into the volume %s: %w", s.volume, err)
	}
	s.path = path.Join(workerFolder, folder, workerName)
	return s.path, nil
}

// copier is a container that shows the worker's volume.
type copier struct {
	engine *engine
	id     string
}

// whole returns the name of the folder with a whole worker; empty if there is none.
func (c copier) whole(ctx context.Context) (string, error) {
	var content bytes.Buffer
	err := c.read(ctx, completeName, maxComplete, &content)
	switch folder := content.String(); {
	case errdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for it: %w", err)
	case len(folder) != len(newName()): // somebody is writing it
		return "", nil
	default:
		return folder, nil
	}
}

// newName is a name that nobody else has.
func newName() string { return strings.ToLower(rand.Text()) }

// copy copies the worker into the volume, reads it again, and says then that it is whole.
func (c copier) copy(ctx context.Context, s *stage) (folder string, err error) {
	folder = newName()
	if err := c.write(ctx, folder, workerName, io.NewSectionReader(s.file, 0, s.size), s.size); err != nil {
		return "", fmt.Errorf("copy it: %w", err)
	}
	sum := sha256.New()
	if err := c.read(ctx, path.Join(folder, workerName), s.size, sum); err != nil {
		return "", fmt.Errorf("read the copy: %w", err)
	}
	if has := hex.EncodeToString(sum.Sum(nil)); has != s.hash {
		return "", errors.New("the copy is not what the worker was; has its file changed?")
	}
	if err := c.write(ctx, "", completeName, strings.NewReader(folder), int64(len(folder))); err != nil {
		return "", fmt.Errorf("say that the copy is whole: %w", err)
	}
	return folder, nil
}

// write writes a file into the volume, in a new folder if that is named.
func (c copier) write(ctx context.Context, folder, name string, content io.Reader, size int64) error {
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
	_, err := c.engine.CopyToContainer(ctx, c.id, client.CopyToContainerOptions{
		DestinationPath: workerFolder, Content: io.MultiReader(&headers, io.LimitReader(content, size), bytes.NewReader(end)),
	})
	return err
}

// read reads a file of the volume that has at most limit bytes.
func (c copier) read(ctx context.Context, name string, limit int64, to io.Writer) error {
	result, err := c.engine.CopyFromContainer(ctx, c.id, client.CopyFromContainerOptions{SourcePath: path.Join(workerFolder, name)})
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
	_, err = io.CopyN(to, archive, header.Size)
	return err
}
