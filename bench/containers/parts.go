package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
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

// imageVariable names the image of containers, where it is not the driver's default.
const imageVariable = "SBX_BENCH_DOCKER_IMAGE"

// callSize is about what a lone call's argument and result have, in bytes.
const callSize = 100

const (
	inDocker = "sbx, docker"
	inLocal  = "sbx, local"
)

// bench is one run of this program.
type bench struct {
	*measure.Run
	image    string
	names    []string
	sessions []*sbx.Session
}

// open opens a session in the engine, if one answers, and a local one.
func open(ctx context.Context, r *measure.Run) (*bench, error) {
	b := &bench{Run: r, image: os.Getenv(imageVariable)}
	for name, d := range b.drivers() {
		session, err := sbx.Open(ctx, sbx.Driver(d), sbx.MaxSandboxes(2), sbx.Logger(slog.New(slog.DiscardHandler)))
		if unavailable, ok := errors.AsType[*driver.UnavailableError](err); ok && name == inDocker {
			err = fmt.Errorf("containers: %w: %w", measure.ErrLeftOut, unavailable)
		}
		if err != nil {
			return nil, errors.Join(err, b.close())
		}
		b.names, b.sessions = append(b.names, name), append(b.sessions, session)
	}
	return b, nil
}

func (b *bench) drivers() iter.Seq2[string, driver.Driver] {
	return func(yield func(string, driver.Driver) bool) {
		_ = yield(inLocal, local.New(nil)) && yield(inDocker, docker.New(&docker.Options{Image: b.image}))
	}
}

func (b *bench) close() error {
	var errs []error
	for _, session := range b.sessions {
		errs = append(errs, session.Close())
	}
	return errors.Join(errs...)
}

// contenders are what each session does.
func (b *bench) contenders(do func(*sbx.Session) func(ctx context.Context, n int) error) []measure.Contender {
	var all []measure.Contender
	for i, name := range b.names {
		all = append(all, measure.Contender{Name: name, Run: do(b.sessions[i])})
	}
	return all
}

// each does one thing after the other.
func each(do func(context.Context) error) func(context.Context, int) error {
	return func(ctx context.Context, n int) error {
		for range n {
			if err := do(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) calls(ctx context.Context, w *strings.Builder) error {
	data := make([]byte, callSize)
	contenders := b.contenders(func(session *sbx.Session) func(context.Context, int) error {
		echo := session.Function(Echo)
		return each(func(ctx context.Context) error {
			_, err := echo.Call(ctx, data)
			return err
		})
	})
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "One call at a time, with %d bytes there and back, into a warm sandbox.\n\n", callSize)
	measure.Compare(w, contenders, took, time.Microsecond, inLocal)
	b.AtMost("lone call, sbx, docker: to the local driver's", took[inDocker]/took[inLocal], 1.5)
	return nil
}

func (b *bench) maps(ctx context.Context, w *strings.Builder) error {
	contenders := b.contenders(func(session *sbx.Session) func(context.Context, int) error {
		empty := session.Function(Empty)
		return func(ctx context.Context, n int) error {
			for _, err := range empty.Map(ctx, repeat(n)) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	})
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	w.WriteString("A map of empty calls over two sandboxes; the time of one input among them.\n\n")
	measure.Compare(w, contenders, took, time.Microsecond, inLocal)
	return nil
}

func repeat(n int) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for range n {
			if !yield(struct{}{}) {
				return
			}
		}
	}
}

func (b *bench) starts(ctx context.Context, w *strings.Builder) error {
	const bare = "a container that is created, started and removed"
	api, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer api.Close()
	contenders := b.contenders(func(session *sbx.Session) func(context.Context, int) error {
		empty := session.Function(Empty)
		return each(func(ctx context.Context) error {
			sandbox := session.Sandbox()
			_, err := empty.In(sandbox).Call(ctx, struct{}{})
			return errors.Join(err, sandbox.Stop(ctx))
		})
	})
	contenders = append(contenders, measure.Contender{Name: bare, Run: each(func(ctx context.Context) error { return b.container(ctx, api) })})
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	w.WriteString("A sandbox from nothing to its first result, and its stop.\n\n")
	measure.Compare(w, contenders, took, time.Millisecond, bare)
	return nil
}

// container makes a container without sbx, and removes it.
func (b *bench) container(ctx context.Context, api *client.Client) error {
	image := b.image
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
