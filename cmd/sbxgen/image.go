package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/sandboxfn/sbx/codegen"
	"github.com/sandboxfn/sbx/internal/artifact"
)

// scratch is the base without anything in it.
const scratch = "scratch"

// image puts a worker on top of an image. Neither a container engine nor a Dockerfile is needed, and the same worker on the same base gives the same image.
func image(ctx context.Context, s *sbxgen, args []string) error {
	base := s.flags.String("base", "", "the `image` below the worker: a reference, a file that docker save wrote (*.tar), or scratch")
	platform := s.flags.String("platform", "linux/"+runtime.GOARCH, "the image's and the worker's `platform`")
	push := s.flags.String("push", "", "push the image, as this `reference`; who may do that is what docker login has noted")
	output := s.flags.String("o", "", "write the image to a `file`, as docker save does, for docker load and ctr images import")
	tag := s.flags.String("tag", "", "the `reference` in that file")
	if err := s.parse(args); err != nil {
		return err
	}
	switch {
	case *base == "":
		return &codegen.UsageError{Reason: "-base is missing: name the image below the worker, or scratch"}
	case (*push == "") == (*output == ""):
		return &codegen.UsageError{Reason: "give -push REFERENCE, or -o FILE with -tag REFERENCE"}
	case (*output == "") != (*tag == ""):
		return &codegen.UsageError{Reason: "-o and -tag belong together: the image in the file needs a name"}
	}
	ref, err := name.ParseReference(*push + *tag) // one of them is empty
	if err != nil {
		return &codegen.UsageError{Reason: err.Error()}
	}
	below, err := s.base(ctx, *base, *platform)
	if err != nil {
		return fmt.Errorf("the base %s: %w", *base, err)
	}
	workers, err := s.workers(ctx, s.flags.Args(), []string{*platform})
	if err != nil {
		return err
	}
	if len(workers) != 1 {
		return &codegen.UsageError{Reason: fmt.Sprintf("an image has one worker, and there are %d: choose one main package", len(workers))}
	}
	made, err := withWorker(below, workers[0])
	if err != nil {
		return err
	}
	digest, err := made.Digest()
	if err != nil {
		return err
	}
	done := s.slow("writing %s", ref)
	defer done()
	if *push != "" {
		if err := remote.Write(ref, made, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", ref, withLogin(err, ref))
		}
		fmt.Fprintf(s.stdout, "%s\n", ref.Context().Digest(digest.String()))
		return nil
	}
	if err := tarball.WriteToFile(s.inDir(*output), ref, made); err != nil {
		return fmt.Errorf("write %s: %w", *output, err)
	}
	fmt.Fprintf(s.stdout, "%s %s\n", ref, digest)
	return nil
}

// base returns the image that a worker goes on top of.
func (s *sbxgen) base(ctx context.Context, from, platform string) (v1.Image, error) {
	at, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	var found v1.Image
	switch {
	case from == scratch:
		return mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: at.OS, Architecture: at.Architecture, RootFS: v1.RootFS{Type: "layers"}})
	case strings.HasSuffix(from, ".tar"):
		found, err = tarball.ImageFromPath(s.inDir(from), nil)
	default:
		var ref name.Reference
		if ref, err = name.ParseReference(from); err != nil {
			return nil, err
		}
		done := s.slow("asking for %s", ref)
		defer done()
		found, err = remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(*at), remote.WithAuthFromKeychain(authn.DefaultKeychain))
		err = withLogin(err, ref)
	}
	if err != nil {
		return nil, err
	}
	config, err := found.ConfigFile()
	if err != nil {
		return nil, err
	}
	if has := config.OS + "/" + config.Architecture; has != at.OS+"/"+at.Architecture {
		return nil, fmt.Errorf("it is for %s, and the worker for %s; choose another with -platform", has, platform)
	}
	return found, nil
}

// withLogin says what helps where a registry doesn't know who asks, or doesn't let them.
func withLogin(err error, ref name.Reference) error {
	var answer *transport.Error
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusUnauthorized && answer.StatusCode != http.StatusForbidden {
		return err
	}
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io" // under which docker login notes it for Docker Hub
	}
	return fmt.Errorf("%w; to go on, log in as somebody who may do that: docker login %s", err, host)
}

// withWorker adds a layer that has nothing but the worker in it, under the name that it has by its contents.
func withWorker(below v1.Image, worker string) (v1.Image, error) {
	sum, err := artifact.HashFile(worker)
	if err != nil {
		return nil, err
	}
	contents, err := os.ReadFile(worker)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	folder := strings.TrimPrefix(artifact.ImageFolder, "/")
	for _, header := range []*tar.Header{ // of no time and no user of this machine
		{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: folder + "/" + sum, Mode: 0o555, Size: int64(len(contents))},
	} {
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	if _, err := writer.Write(contents); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	made, err := mutate.Append(below, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "sbxgen image"}})
	return made, err
}
