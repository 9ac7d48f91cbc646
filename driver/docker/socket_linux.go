//go:build !sbxworker

package docker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/sandboxfn/sbx/internal/agent/remote"
	"github.com/sandboxfn/sbx/internal/scratch"
)

// folderPrefix begins the name of each session's folder in the folder for temporary files.
const folderPrefix = "sbx-docker-"

// socketName is the socket's name in its folder.
const socketName = "agent"

// sockets are a session's: each is in a folder of its own, which only the sandbox's container shows. The folders are in one that no other user can enter.
type sockets struct{ folders *scratch.Folders }

// makeSockets returns nil if the engine isn't on this machine.
func makeSockets(ctx context.Context, engine *engine, logger *slog.Logger) (*sockets, error) {
	if !engine.isHere() {
		return nil, nil
	}
	folders, err := scratch.Make(ctx, folderPrefix, logger)
	if err != nil {
		return nil, err
	}
	return &sockets{folders}, nil
}

func (s *sockets) close() error {
	if s == nil {
		return nil
	}
	return s.folders.Close()
}

// socket is where one agent dials. A nil one is dialed by nobody.
type socket struct {
	sockets  *sockets
	token    string
	name     string
	folder   string
	listener *net.UnixListener
}

// newSocket returns nil where sandboxes can't be reached by sockets.
func (s *session) newSocket(token string) (*socket, error) {
	s.mu.Lock()
	byStream := s.byStream
	s.mu.Unlock()
	if byStream {
		return nil, nil
	}
	name := token[:8]
	folder, err := s.sockets.folders.Add(name)
	if err != nil {
		return nil, err
	}
	socket := &socket{sockets: s.sockets, token: token, name: name, folder: folder}
	path := filepath.Join(folder, socketName)
	if socket.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		socket.close() // the path may be too long for a socket
		s.setByStream()
		return nil, nil
	}
	// The sandbox's user is another one. Who else could get here is kept out by the folder above.
	if err := errors.Join(os.Chmod(folder, 0o755), os.Chmod(path, 0o666)); err != nil {
		socket.close()
		return nil, err
	}
	return socket, nil
}

// accept waits for the agent until ctx ends.
func (s *socket) accept(ctx context.Context) (*remote.Agent, error) {
	if s == nil {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return remote.Accept(ctx, s.listener, s.token)
}

// close removes what is left of it, when the agent has dialed or never will.
func (s *socket) close() {
	if s == nil {
		return
	}
	if s.listener != nil {
		_ = s.listener.Close()
	}
	_ = s.sockets.folders.Remove(s.name)
}
