//go:build !linux && !sbxworker

package docker

import (
	"context"
	"log/slog"

	"github.com/sandboxfn/sbx/internal/agent/remote"
)

// On other systems the engine is in a virtual machine, into which no socket reaches.

const socketName = ""

type sockets struct{}

func makeSockets(context.Context, *engine, *slog.Logger) (*sockets, error) { return nil, nil }

func (*sockets) close() error { return nil }

type socket struct{ folder string }

func (*session) newSocket(string) (*socket, error) { return nil, nil }

func (*socket) accept(ctx context.Context) (*remote.Agent, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (*socket) close() {}
