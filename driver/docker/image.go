//go:build !sbxworker

package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxfn/sbx/driver"
)

// progressTime is between two records that say how far a pull is.
const progressTime = 5 * time.Second

// images are those that a session has seen at the engine.
type images struct {
	engine *engine
	pull   string
	logger *slog.Logger

	mu   sync.Mutex
	seen map[string]*sighting
}

// sighting is of one image. Whoever needs it waits for whoever looks for it.
type sighting struct {
	turn    chan struct{} // has one entry, of who may look
	found   bool
	volumes []string // folders that the image wants kept; read after found
}

// find returns the folders that an image declares as volumes, when the engine has it. It pulls the image if that is missing.
func (i *images) find(ctx context.Context, image string) ([]string, error) {
	if _, err := reference.ParseAnyReference(image); err != nil {
		return nil, &driver.ImageError{Driver: driverName, Image: image, Err: err, Remedies: []string{"name it as docker pull does, such as debian:12"}}
	}
	i.mu.Lock()
	s := i.seen[image]
	if s == nil {
		s = &sighting{turn: make(chan struct{}, 1)}
		i.seen[image] = s
	}
	i.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.found {
		return s.volumes, nil
	}
	if i.pull == pullAlways {
		if err := i.get(ctx, image); err != nil {
			return nil, err
		}
	}
	result, err := i.engine.ImageInspect(ctx, image)
	if errdefs.IsNotFound(err) && i.pull == pullMissing {
		if err := i.get(ctx, image); err != nil {
			return nil, err
		}
		result, err = i.engine.ImageInspect(ctx, image)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errdefs.IsNotFound(err):
		return nil, &driver.ImageError{Driver: driverName, Image: image, Err: errors.New("the engine does not have it"), Remedies: []string{
			"get it with docker pull or docker load", "let it be pulled (Options.Pull)",
		}}
	case err != nil:
		return nil, fmt.Errorf("look for the image %s: %w", image, err)
	case result.Os != "" && result.Os != "linux":
		return nil, &driver.ImageError{Driver: driverName, Image: image, Err: fmt.Errorf("it is of %s", result.Os), Remedies: []string{"name one of Linux"}}
	}
	if result.Config != nil {
		for volume := range result.Config.Volumes {
			s.volumes = append(s.volumes, volume)
		}
	}
	s.found = true
	return s.volumes, nil
}

// forget has the next who needs an image look for it again.
func (i *images) forget(image string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.seen, image)
}

// get pulls an image, and says so.
func (i *images) get(ctx context.Context, image string) error {
	platform := i.engine.platform()
	i.logger.Info("an image is pulled", slog.String("image", image))
	began := time.Now()
	auth, unknown := credentials(ctx, image) // of which a public image needs none
	response, err := i.engine.ImagePull(ctx, image, client.ImagePullOptions{
		RegistryAuth: auth, Platforms: []ocispec.Platform{{OS: platform.OS, Architecture: platform.Arch}},
	})
	if err == nil {
		defer response.Close()
		layers, last := map[string]bool{}, began
		for message, streamErr := range response.JSONMessages(ctx) {
			if err = streamErr; err == nil && message.Error != nil {
				err = message.Error
			}
			if err != nil {
				break
			}
			if message.Progress != nil {
				layers[message.ID] = false
			} else if _, known := layers[message.ID]; known {
				layers[message.ID] = true
			}
			if time.Since(last) > progressTime {
				last = time.Now()
				i.logger.Info("an image is being pulled", slog.String("image", image), slog.Int("layers", len(layers)), slog.Int("done", count(layers)))
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return &driver.ImageError{Driver: driverName, Image: image, Err: errors.Join(fmt.Errorf("pull it: %w", err), unknown), Remedies: []string{
			"check its name", "give its registry's credentials to docker login", "load it with docker load",
		}}
	}
	i.logger.Info("an image was pulled", slog.String("image", image), slog.Duration("took", time.Since(began)))
	return nil
}

func count(layers map[string]bool) (n int) {
	for _, done := range layers {
		if done {
			n++
		}
	}
	return n
}
