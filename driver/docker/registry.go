//go:build !sbxworker

package docker

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// credentials returns what docker login, or podman login, was told of an image's registry, as the engine takes it; empty if that is nothing. A credential
// helper may ask the user, or hang: it is waited for as long as ctx lasts.
func credentials(ctx context.Context, image string) (string, error) {
	type found struct {
		auth string
		err  error
	}
	finds := make(chan found, 1)
	go func() {
		auth, err := findCredentials(image)
		finds <- found{auth, err}
	}()
	select {
	case f := <-finds:
		return f.auth, f.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func findCredentials(image string) (string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	found, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil {
		return "", fmt.Errorf("the credentials of %s: %w", ref.Context().RegistryStr(), err)
	}
	config, err := found.Authorization()
	if err != nil {
		return "", fmt.Errorf("the credentials of %s: %w", ref.Context().RegistryStr(), err)
	}
	if *config == (authn.AuthConfig{}) {
		return "", nil
	}
	return authconfig.Encode(registry.AuthConfig{
		Username: config.Username, Password: config.Password, Auth: config.Auth,
		IdentityToken: config.IdentityToken, RegistryToken: config.RegistryToken, ServerAddress: ref.Context().RegistryStr(),
	})
}
