package remote

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/sandboxfn/sbx/internal/agent"
)

// More of yamux's frames than package agent has.
const (
	muxPing = 2 // a type
	muxSYN  = 1 // the flag of a first frame; of a ping, that it wants to be answered
)

// An agent's signs of life come a few times a minute. These many more at a time do no harm.
const (
	pingsAtOnce    = 16
	pingsPerSecond = 1
)

var (
	errOpens = errors.New("the agent opened a stream, and is to open none")
	errPings = errors.New("the agent wants signs of life without end")
)

// guard is a stream on which an agent can't make yamux keep what nobody bounds: yamux answers each ping on a goroutine of its own, which waits
// until the agent reads, and keeps a stream for each one that the agent opens.
type guard struct {
	io.ReadWriteCloser
	began  time.Time
	pings  int
	header [agent.MuxHeader]byte
	has    int    // bytes of the header that have come
	shown  int    // bytes of the whole header that were handed on
	left   uint32 // data of the frame that is still to come
}

func newGuard(over io.ReadWriteCloser) *guard {
	return &guard{ReadWriteCloser: over, began: time.Now()}
}

func (g *guard) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case g.left > 0:
		n, err := g.ReadWriteCloser.Read(p[:min(uint64(len(p)), uint64(g.left))])
		g.left -= uint32(n)
		return n, err
	}
	if g.has < agent.MuxHeader {
		n, err := io.ReadFull(g.ReadWriteCloser, g.header[g.has:])
		g.has += n
		if err != nil {
			return 0, err
		}
		if err := g.check(); err != nil {
			return 0, err
		}
		g.shown = 0
	}
	n := copy(p, g.header[g.shown:])
	if g.shown += n; g.shown == agent.MuxHeader {
		g.has = 0
		if g.header[1] == agent.MuxData {
			g.left = binary.BigEndian.Uint32(g.header[8:])
		}
	}
	return n, nil
}

func (g *guard) check() error {
	if binary.BigEndian.Uint16(g.header[2:])&muxSYN == 0 {
		return nil
	}
	if g.header[1] != muxPing {
		return errOpens
	}
	g.pings++
	if g.pings > pingsAtOnce+pingsPerSecond*int(time.Since(g.began)/time.Second) {
		return errPings
	}
	return nil
}
