//go:build !linux

package remote

import (
	"errors"
	"net"

	"github.com/sandboxfn/sbx/internal/agent"
)

// sendFiles is never called: only on Linux agents are reached over sockets.
func sendFiles(net.Conn, agent.Request) (*streams, error) {
	return nil, errors.New("descriptors can't be passed on this system")
}
