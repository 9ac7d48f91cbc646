package sbx

import (
	"context"

	"google.golang.org/grpc"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// maxIdleStreams is how many streams of commands that have ended a sandbox keeps for others. Nobody reads them, so each can hold what a hostile worker
// sends until its window is full.
const maxIdleStreams = 4

// commandStream is a stream of a worker's that runs commands, one after another: to open one takes longer than a command's messages do.
type commandStream struct {
	grpc.BidiStreamingClient[wirepb.CommandInput, wirepb.CommandOutput]
	ctx context.Context
	end context.CancelFunc
}

// commandStream returns a stream on which no command runs.
func (sb *sandbox) commandStream(ctx context.Context) (*commandStream, error) {
	sb.mu.Lock()
	if last := len(sb.streams) - 1; last >= 0 {
		stream := sb.streams[last]
		sb.streams = sb.streams[:last]
		sb.mu.Unlock()
		return stream, nil
	}
	sb.mu.Unlock()
	own, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	stream, err := sb.client().Run(own)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		end()
		return nil, err
	}
	return &commandStream{stream, own, end}, nil
}

// keep keeps a stream whose command has ended.
func (sb *sandbox) keep(stream *commandStream) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if len(sb.streams) < maxIdleStreams {
		sb.streams = append(sb.streams, stream)
	} else {
		stream.end()
	}
}

// endStream ends the command's stream, and so the command, unless it has ended.
func (r *commandRun) endStream() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stream != nil && !r.left {
		r.stream.end()
	}
}

// leaveStream leaves the stream to other commands if this one has ended and took no input, whose end is the stream's. Else it ends the stream.
func (r *commandRun) leaveStream() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
	if r.received.exited != nil && r.stream.ctx.Err() == nil && !r.input {
		r.running.keep(r.stream)
	} else {
		r.stream.end()
	}
}
