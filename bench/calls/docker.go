package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/internal/measure"
)

// dockerImageVariable names the image of containers, where it is not the driver's default.
const dockerImageVariable = "SBX_BENCH_DOCKER_IMAGE"

// inDocker measures sandboxes of a Docker Engine, if one answers, beside local ones and bare containers.
func inDocker(ctx context.Context, b *bench, w *strings.Builder) error {
	const dockerName, localName = "sbx, docker", "sbx, local"
	image := os.Getenv(dockerImageVariable)
	byName := map[string]*sbx.Session{}
	for _, v := range []variant{{dockerName, docker.New(&docker.Options{Image: image})}, {localName, local.New(nil)}} {
		session, err := v.open(ctx, sbx.MaxSandboxes(2))
		if unavailable, ok := errors.AsType[*driver.UnavailableError](err); ok && v.name == dockerName {
			return fmt.Errorf("%w: %w", measure.ErrLeftOut, unavailable)
		}
		if err != nil {
			return err
		}
		defer session.Close()
		byName[v.name] = session
	}
	var calls, maps, starts []measure.Contender
	data := make([]byte, callSize)
	for _, name := range []string{localName, dockerName} {
		session := byName[name]
		echo, empty := session.Function(Echo), session.Function(Empty)
		calls = append(calls, measure.Contender{Name: name, Run: together(1, func(ctx context.Context) error {
			_, err := echo.Call(ctx, data)
			return err
		})})
		maps = append(maps, measure.Contender{Name: name, Run: func(ctx context.Context, n int) error {
			for _, err := range empty.Map(ctx, repeat(struct{}{}, n)) {
				if err != nil {
					return err
				}
			}
			return nil
		}})
		starts = append(starts, measure.Contender{Name: name, Run: together(1, func(ctx context.Context) error {
			sandbox := session.Sandbox()
			_, err := empty.In(sandbox).Call(ctx, struct{}{})
			return errors.Join(err, sandbox.Stop(ctx))
		})})
	}
	api, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer api.Close()
	const bare = "a container that is created, started and removed"
	starts = append(starts, measure.Contender{Name: bare, Run: together(1, func(ctx context.Context) error { return bareContainer(ctx, api, image) })})

	took, err := b.Contest(ctx, calls)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "One call at a time, with %d bytes there and back, into a warm sandbox.\n\n", callSize)
	measure.Compare(w, calls, took, time.Microsecond, localName)
	b.AtMost("lone call, sbx, docker: to the local driver's", took[dockerName]/took[localName], 1.5)
	if took, err = b.Contest(ctx, maps); err != nil {
		return err
	}
	w.WriteString("\nA map of empty calls over two sandboxes; the time of one input among them.\n\n")
	measure.Compare(w, maps, took, time.Microsecond, localName)
	if took, err = b.Contest(ctx, starts); err != nil {
		return err
	}
	w.WriteString("\nA sandbox from nothing to its first result, and its stop.\n\n")
	measure.Compare(w, starts, took, time.Millisecond, bare)
	return nil
}

func bareContainer(ctx context.Context, api *client.Client, image string) error {
	if image == "" {
		image = "busybox:stable"
	}
	created, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: image, Entrypoint: []string{"/bin/sleep", "1000"}},
		HostConfig: &container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}},
	})
	if err != nil {
		return err
	}
	_, err = api.ContainerStart(ctx, created.ID, client.ContainerStartOptions{})
	_, removeErr := api.ContainerRemove(ctx, created.ID, client.ContainerRemoveOptions{Force: true})
	return errors.Join(err, removeErr)
}
