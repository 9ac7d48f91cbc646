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

// credentials returns what docker login, or podman login, was told of an image's registry, as the engine takes it; empty if that is nothing.
func credentials(ctx context.Context, image string) (string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	found, err := authn.Resolve(ctx, authn.DefaultKeychain, ref.Context())
	if err != nil {
		return "", fmt.Errorf("the credentials of %s: %w", ref.Context().RegistryStr(), err)
	}
	config, err := authn.Authorization(ctx, found)
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
