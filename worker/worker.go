// Package worker is the runtime of a program that serves its functions in a sandbox. Its audience is generated code,
// which calls [Divert], and drivers that run a worker in their own process, which call [Serve]. Application authors
// never import it.
//
// A worker is the program itself, started again in a sandbox: package variables and init functions run as ever, then
// Divert takes over before main. It has the environment that the sandbox's spec gives and nothing else, standard input
// that is empty, and standard output and error that arrive as log records at the session; the protocol has descriptors
// of its own, so that what a program prints never reaches it.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	_ "github.com/sandboxfn/sbx/internal/agent" // which a worker's file is, too, in a container
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"google.golang.org/grpc"
)

// boot is what the session tells this process; nil in a program that is no worker. handshake is where this process tells
// the session that it is ready, and how it ends; nobody closes it.
var boot, handshake = takeBoot()

// diverts counts the calls of Divert, and source is the file that the last one is in.
var (
	diverts int
	source  string
)

// takeBoot reads the marker and removes it, so that neither user code nor what it starts takes itself for a worker.
func takeBoot() (*wire.Boot, *os.File) {
	value, ok := os.LookupEnv(wire.BootVariable)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(wire.BootVariable)
	b, err := wire.DecodeBoot(value)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sbx: %v: this variable is set by a session when it starts a worker; unset it\n", err)
		os.Exit(2)
	}
	handshake := keepDescriptors()
	if b.Coverage {
		superviseCovered(b, handshake)
	}
	return &b, handshake
}

// Active reports whether this process is a worker.
func Active() bool { return boot != nil }

// Diverts returns how often Divert was called: 0 means that the program has no generated code that calls it, and so
// can't be a worker.
func Diverts() int { return diverts }

// Divert turns the process into a worker, and then never returns. In a program that is no worker it does nothing. (In a test
// binary whose coverage is wanted it returns when the session is gone.)
//
// Generated code calls it from the last init function of a program. Where a program has several such functions, as a
// test binary may, the last one counts: the session knows how many ran, and the same program runs them in the same order.
func Divert() {
	diverts++
	_, source, _, _ = runtime.Caller(1)
	if boot == nil || diverts != boot.Divert {
		return
	}
	becomeWorker()
}

// Source returns the file in which Divert was called last, as the compiler knows it: an absolute path, but not in programs
// that were built with -trimpath.
func Source() string { return source }

// In a program without generated code there is no Divert. It serves no functions, but runs commands and has files.
func init() {
	if boot != nil && boot.Divert == 0 {
		becomeWorker()
	}
}

// Executable is the file of this program. On Linux it is the one that runs, even if its path has been given to another.
func Executable() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

func becomeWorker() {
	// A service manager that ends the program may send this to all of its processes. When to end is the session's to say. It is not
	// ignored, for what user code starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	if err := serveProcess(*boot); err != nil {
		fmt.Fprintf(os.Stderr, "sbx: worker: %v\n", err)
		os.Exit(1)
	}
	if boot.Test {
		runNoTest()
		return
	}
	os.Exit(0)
}

// serveProcess serves on the descriptors that a driver leaves open, until the session is gone.
func serveProcess(boot wire.Boot) error {
	conn, err := openConn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	notes := openLedger()
	attendant, err := newAttendant(notes) // before go-plugin's variables are in the environment
	if err != nil {
		return err
	}
	server := &server{ledger: notes, direct: openDirect(), attendant: attendant, exit: func(why string) {
		_, _ = io.WriteString(handshake, why)
		os.Exit(1)
	}}
	line, err := negotiate(ctx, boot, server)
	if err != nil {
		return err
	}
	err = serve(conn, handshake, line, server)
	_, _ = io.WriteString(handshake, wire.StreamEnded) // if the session is gone, nobody needs it
	return err
}

// negotiate lets go-plugin choose the protocol's version, and returns the line that tells the session.
//
// It uses go-plugin's test mode, which is the one that leaves os.Stdout and os.Stderr alone: outside of it they become
// pipes of go-plugin's, at a moment that user code could see. What test mode leaves out is the line, which is made here.
func negotiate(ctx context.Context, boot wire.Boot, server *server) (line string, err error) {
	for _, variable := range os.Environ() { // what the spec says to go-plugin is for user code, too
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PLUGIN_") {
			_ = os.Unsetenv(name)
			defer func() { _ = os.Setenv(name, value) }()
		}
	}
	// The folder that this process starts in is its sandbox's, and gone with it, if this process is killed while the socket is there. What the
	// spec says about TMPDIR is for user code, so it comes last.
	folder := wire.SocketFolder(".", "/dev/shm", "/tmp", os.TempDir())
	for _, variable := range append(boot.Plugin, plugin.EnvUnixSocketDir+"="+folder) {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return "", err
		}
		defer func() { _ = os.Unsetenv(name) }()
	}
	if cookie := os.Getenv(wire.Handshake.MagicCookieKey); cookie != wire.Handshake.MagicCookieValue {
		return "", fmt.Errorf("%s is not what a session sets", wire.Handshake.MagicCookieKey)
	}
	ready, ended := make(chan *plugin.ReattachConfig, 1), make(chan struct{})
	go plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{wire.Version: {wire.PluginName: workerPlugin{server: server}}},
		GRPCServer:       server.newGRPC,
		Logger:           hclog.NewNullLogger(),
		Test:             &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: ready, CloseCh: ended},
	})
	select {
	case config := <-ready:
		// The session is served on a descriptor that it made. Nobody is to dial this path.
		_ = os.Remove(config.Addr.String())
		return handshakeLine(config.ProtocolVersion), nil
	case <-ended:
		return "", fmt.Errorf("go-plugin could not listen in %s", folder)
	}
}

func handshakeLine(version int) string {
	return fmt.Sprintf("%d|%d|unix|sandbox|%s|\n", plugin.CoreProtocolVersion, version, plugin.ProtocolGRPC)
}

// serve says that the worker is ready and serves conn until it ends. It does not wait for calls: what ignores its
// context ends with the process.
func serve(conn net.Conn, handshake io.Writer, line string, server *server) error {
	if _, err := io.WriteString(handshake, line); err != nil {
		return fmt.Errorf("write the handshake: %w", err)
	}
	server.meter = wire.NewMeter(conn)
	listener := newOneListener(server.meter)
	err := server.grpc.Serve(listener)
	server.grpc.Stop()
	if err != nil && !listener.ended() {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Serve serves the functions of this program on conn until conn ends or ctx does. It is for drivers that run a worker
// in their own process, without isolation; it runs no commands and has no files. notes is the worker's ledger, nil if it has none; wrap may put something around
// the stream, and is nil otherwise. Whoever reads the line from handshake reads on: why the worker ends is said there, too. Serve closes conn and handshake, but not notes, and returns when every call has returned.
func Serve(ctx context.Context, conn net.Conn, handshake io.WriteCloser, notes *os.File, wrap func(wire.Stream) wire.Stream) error {
	defer func() { _ = handshake.Close() }()
	var once sync.Once // the first reason counts
	tell := func(why string) { once.Do(func() { _, _ = io.WriteString(handshake, why) }) }
	server := &server{wrap: wrap, exit: func(why string) {
		tell(why)
		_ = conn.Close()
	}}
	if notes != nil {
		var err error
		if server.ledger, err = ledger.Map(notes); err != nil {
			return errors.Join(err, conn.Close())
		}
		defer server.ledger.Close()
	}
	server.register(server.newGRPC(nil))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err := serve(conn, handshake, handshakeLine(wire.Version), server)
	tell(wire.StreamEnded)
	server.opened.Do(func() {}) // no handler begins any more
	server.handlers.Wait()
	return err
}

// workerPlugin is the worker's half of the plugin.
type workerPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server
}

func (p workerPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	p.server.register(s)
	return nil
}

func (workerPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a worker calls no plugin")
}
