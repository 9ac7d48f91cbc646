//go:build !sbxworker

package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/moby/moby/client"
)

const (
	// frameHeader precedes each piece of output: the stream, three empty bytes, and the length.
	frameHeader = 8
	stderrFrame = 2
	// keptStderr is how much of a container's standard error is kept, the last.
	keptStderr = 4 << 10
)

// attached is a container's standard input and output as one stream. What comes on standard error is kept for errors.
type attached struct {
	conn net.Conn
	from io.Reader
	left uint32 // of the frame that is being read

	mu     sync.Mutex
	stderr []byte
}

func (e *engine) attach(ctx context.Context, id string) (*attached, error) {
	result, err := e.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	return &attached{conn: result.Conn, from: result.Reader}, nil
}

func (a *attached) Read(p []byte) (int, error) {
	for a.left == 0 {
		var header [frameHeader]byte
		if _, err := io.ReadFull(a.from, header[:]); err != nil {
			return 0, err
		}
		length := binary.BigEndian.Uint32(header[4:])
		if header[0] != stderrFrame {
			a.left = length
			continue
		}
		if err := a.keep(int64(length)); err != nil {
			return 0, err
		}
	}
	n, err := a.from.Read(p[:min(uint64(len(p)), uint64(a.left))])
	a.left -= uint32(n)
	return n, err
}

// keep keeps the last of a piece of standard error.
func (a *attached) keep(length int64) error {
	piece := make([]byte, 512)
	for length > 0 {
		n, err := a.from.Read(piece[:min(length, int64(len(piece)))])
		length -= int64(n)
		a.mu.Lock()
		a.stderr = append(a.stderr, piece[:n]...)
		a.stderr = a.stderr[max(0, len(a.stderr)-keptStderr):]
		a.mu.Unlock()
		if err != nil && (length > 0 || !errors.Is(err, io.EOF)) {
			return err
		}
	}
	return nil
}

// said is how an error's text ends that tells of the container's standard error.
func (a *attached) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if text := strings.TrimSpace(string(a.stderr)); text != "" {
		return fmt.Sprintf("; its first process said: %q", text)
	}
	return ""
}

func (a *attached) Write(p []byte) (int, error) { return a.conn.Write(p) }

func (a *attached) Close() error { return a.conn.Close() }
