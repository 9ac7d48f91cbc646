//go:build !sbxworker

// Package forward connects to a port of a pod by way of the API server, as kubectl port-forward does, without a port of this machine between.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	protocol "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// Dial connects to a port of the pod whose subresource portforward has the address: by a websocket, or by SPDY alone where something in between knows no
// websockets. The connection has no deadlines.
func Dial(ctx context.Context, config *rest.Config, logger klog.Logger, address string, port int) (net.Conn, error) {
	connection, err := byWebsocket(ctx, config, logger, address)
	if err != nil && NoWebsocket(err) {
		refusal := err
		connection, err = bySPDY(ctx, config, address)
		err = WithoutWebsocket(refusal, err)
	}
	if err != nil {
		return nil, err
	}
	// This takes no context, and waits half a minute for a stream that the other side does not answer for, even when the connection has ended.
	type made struct {
		conn *forwarded
		err  error
	}
	done := make(chan made, 1)
	go func() {
		conn, err := newForwarded(connection, port)
		if err == nil && ctx.Err() != nil {
			_ = conn.Close() // nobody takes it
		}
		done <- made{conn, err}
	}()
	select {
	case m := <-done:
		if m.err != nil {
			_ = connection.Close()
			return nil, m.err
		}
		return m.conn, nil
	case <-ctx.Done():
		_ = connection.Close()
		return nil, context.Cause(ctx)
	}
}

// NoWebsocket tells whether it is worth while to try SPDY.
func NoWebsocket(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

// WithoutWebsocket returns the error of SPDY, if there is one, as one of a user who may not connect if that is what the API server said when it refused the
// websocket. By SPDY its word comes as a text, and client-go's error for the refusal does not unwrap.
func WithoutWebsocket(refusal, err error) error {
	upgrade, ok := errors.AsType[*httpstream.UpgradeFailureError](refusal)
	if err == nil || !ok || !NotAllowed(upgrade.Cause) {
		return err
	}
	return refused{err, upgrade.Cause}
}

// NotAllowed tells whether the API server has said that this user may not do something. It is no use to try that again.
func NotAllowed(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}

type refused struct {
	error
	status error
}

func (r refused) Unwrap() error { return r.status }

// byWebsocket has SPDY within a websocket.
func byWebsocket(ctx context.Context, config *rest.Config, logger klog.Logger, address string) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request, protocol.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, err
	}
	tunnel := portforward.NewTunnelingConnectionWithLogger(logger, conn)
	connection, err := httpstreamspdy.NewClientConnection(tunnel)
	if err != nil {
		return nil, err
	}
	return tunnelled{connection, tunnel}, nil
}

// tunnelled ends with Close, whatever its streams wait for.
type tunnelled struct {
	httpstream.Connection
	tunnel io.Closer
}

func (t tunnelled) Close() error {
	return errors.Join(t.Connection.Close(), t.tunnel.Close())
}

func bySPDY(ctx context.Context, config *rest.Config, address string) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, nil)
	if err != nil {
		return nil, err
	}
	connection, spoken, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, request, protocol.PortForwardV1Name)
	if err != nil {
		return nil, err
	}
	if spoken != protocol.PortForwardV1Name {
		_ = connection.Close()
		return nil, fmt.Errorf("the API server speaks %q for port-forwards, and not %q", spoken, protocol.PortForwardV1Name)
	}
	return connection, nil
}

// forwarded is a forwarded connection. One goroutine reads what the other side has to say of errors.
type forwarded struct {
	httpstream.Stream // of data
	connection        httpstream.Connection
	failure           chan error // holds why it failed, when the stream of errors has ended
	once              sync.Once
}

func newForwarded(connection httpstream.Connection, port int) (*forwarded, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errorStream, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = errorStream.Close() // for writing
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	f := &forwarded{Stream: data, connection: connection, failure: make(chan error, 1)}
	go func() {
		text, err := io.ReadAll(io.LimitReader(errorStream, 4096))
		if err == nil && len(text) > 0 {
			err = errors.New(string(text))
		}
		f.failure <- err
		_ = f.Close() // nothing comes any more
	}()
	return f, nil
}

// Read says what the other side said, if the stream ends because of that.
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.Stream.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	select {
	case told := <-f.failure:
		if told != nil {
			err = told
		}
	default:
	}
	return n, err
}

func (f *forwarded) Close() error {
	f.once.Do(func() {
		_ = f.Reset()
		_ = f.connection.Close()
	})
	return nil
}

// There are no deadlines: whoever waits too long closes it.

func (*forwarded) SetDeadline(time.Time) error      { return nil }
func (*forwarded) SetReadDeadline(time.Time) error  { return nil }
func (*forwarded) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr and RemoteAddr are of nothing that could be dialled.
func (*forwarded) LocalAddr() net.Addr  { return addr{} }
func (*forwarded) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "port-forward" }
func (addr) String() string  { return "port-forward" }
