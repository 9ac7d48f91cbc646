package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sandboxfn/sbx/internal/measure"
)

// The peers are what one would use instead of sbx, without sandboxes, in a process of their own: this program, started with
// peerVariable, which names a folder for their sockets.
const (
	peerVariable = "SBX_BENCH_PEER"
	maxMessage   = 65 << 20
)

// servePeers serves the other ends until standard input ends.
func servePeers(folder string) error {
	echo, err := net.Listen("unix", filepath.Join(folder, "echo"))
	if err != nil {
		return err
	}
	go acceptAll(echo, serveEcho)
	rpcs, err := net.Listen("unix", filepath.Join(folder, "rpc"))
	if err != nil {
		return err
	}
	if err := rpc.Register(&Peer{}); err != nil {
		return err
	}
	go rpc.Accept(rpcs)
	grpcs, err := net.Listen("unix", filepath.Join(folder, "grpc"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	server.RegisterService(&service, nil)
	go func() { _ = server.Serve(grpcs) }()
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func acceptAll(listener net.Listener, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go serve(conn)
	}
}

// A frame is four bytes of length and so many bytes.
func writeFrame(w io.Writer, frame []byte) error {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	_, err := w.Write(frame)
	return err
}

func readFrame(r io.Reader, buffer []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:])) + 4
	if n > cap(buffer) {
		buffer = make([]byte, n)
	}
	_, err := io.ReadFull(r, buffer[4:n])
	return buffer[:n], err
}

func serveEcho(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReaderSize(conn, 64<<10)
	var frame []byte
	var err error
	for err == nil {
		if frame, err = readFrame(reader, frame); err == nil {
			err = writeFrame(conn, frame)
		}
	}
}

// Peer is the service of net/rpc.
type Peer struct{}

// Echo returns its argument.
func (*Peer) Echo(data []byte, result *[]byte) error {
	*result = data
	return nil
}

// service is what protoc would make of a service with a unary method and a stream, both of google.protobuf.BytesValue.
var service = grpc.ServiceDesc{
	ServiceName: "bench.Peer",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		return in, decode(in)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		for {
			message := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(message); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := stream.SendMsg(message); err != nil {
				return err
			}
		}
	}}},
}

// peers are this process's ends.
type peers struct {
	process *exec.Cmd
	stdin   io.Closer
	folder  string
	echo    net.Conn
	rpc     *rpc.Client
	grpc    *grpc.ClientConn
	stream  grpc.ClientStream
	cancel  context.CancelFunc
	pythons []*python
	missing []string // of those
}

func startPeers(ctx context.Context, self string) (_ *peers, err error) {
	p := &peers{}
	if p.folder, err = os.MkdirTemp("", "sbx-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.process = exec.Command(self)
	p.process.Env = append(os.Environ(), peerVariable+"="+p.folder)
	p.process.Stderr = os.Stderr
	if p.stdin, err = p.process.StdinPipe(); err != nil {
		return nil, err
	}
	ready, err := p.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.process.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return nil, err
	}
	if p.echo, err = net.Dial("unix", filepath.Join(p.folder, "echo")); err != nil {
		return nil, err
	}
	if p.rpc, err = rpc.Dial("unix", filepath.Join(p.folder, "rpc")); err != nil {
		return nil, err
	}
	if p.grpc, err = grpc.NewClient("unix://"+filepath.Join(p.folder, "grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))); err != nil {
		return nil, err
	}
	ctx, p.cancel = context.WithCancel(ctx)
	if p.stream, err = p.grpc.NewStream(ctx, &service.Streams[0], "/bench.Peer/Stream"); err != nil {
		return nil, err
	}
	p.pythons, p.missing, err = startPythons(p.folder)
	return p, err
}

func (p *peers) close() {
	if p.cancel != nil {
		p.cancel()
	}
	for _, python := range p.pythons {
		python.close()
	}
	for _, end := range []io.Closer{p.echo, p.rpc, p.grpc, p.stdin} {
		if end != nil && !isNil(end) {
			_ = end.Close()
		}
	}
	if p.process != nil && p.process.Process != nil {
		_ = p.process.Wait()
	}
	_ = os.RemoveAll(p.folder)
}

// isNil tells a field that was not set from one that was.
func isNil(end io.Closer) bool {
	switch end := end.(type) {
	case *rpc.Client:
		return end == nil
	case *grpc.ClientConn:
		return end == nil
	}
	return false
}

// raw is the echo over a plain socket.
func (p *peers) raw(size int) measure.Contender {
	frame := make([]byte, size+4)
	reader := bufio.NewReaderSize(p.echo, 64<<10)
	return measure.Contender{Name: "raw echo", Run: func(_ context.Context, n int) (err error) {
		for range n {
			if err := writeFrame(p.echo, frame); err != nil {
				return err
			}
			if frame, err = readFrame(reader, frame); err != nil {
				return err
			}
		}
		return nil
	}}
}

func (p *peers) netRPC(size int) measure.Contender {
	data := make([]byte, size)
	return measure.Contender{Name: "net/rpc", Run: func(_ context.Context, n int) error {
		for range n {
			var result []byte
			if err := p.rpc.Call("Peer.Echo", data, &result); err != nil {
				return err
			}
		}
		return nil
	}}
}

// streamed is a ping-pong over one stream.
func (p *peers) streamed(size int) measure.Contender {
	data := make([]byte, size)
	return measure.Contender{Name: "gRPC stream", Run: func(_ context.Context, n int) error {
		for range n {
			if err := p.stream.SendMsg(wrapperspb.Bytes(data)); err != nil {
				return err
			}
			if err := p.stream.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
				return err
			}
		}
		return nil
	}}
}

// unary makes calls, so many at a time.
func (p *peers) unary(size, atOnce int) measure.Contender {
	data := make([]byte, size)
	return measure.Contender{Name: "gRPC unary", Run: together(atOnce, func(ctx context.Context) error {
		return p.grpc.Invoke(ctx, "/bench.Peer/Echo", wrapperspb.Bytes(data), new(wrapperspb.BytesValue))
	})}
}

// together runs one n times, so many at a time.
func together(atOnce int, one func(context.Context) error) func(context.Context, int) error {
	return func(ctx context.Context, n int) error {
		var lanes sync.WaitGroup
		var left, failed atomic.Int64
		left.Store(int64(n))
		var first error
		for range min(atOnce, n) {
			lanes.Go(func() {
				for left.Add(-1) >= 0 {
					if err := one(ctx); err != nil {
						if failed.Add(1) == 1 {
							first = err
						}
						return
					}
				}
			})
		}
		lanes.Wait()
		return first
	}
}

// peerOf is the folder that peerVariable names, if this process is the other end.
func peerOf() (string, bool) {
	folder := os.Getenv(peerVariable)
	return folder, strings.TrimSpace(folder) != ""
}
