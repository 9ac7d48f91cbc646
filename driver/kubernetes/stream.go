//go:build !sbxworker

package kubernetes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	protocol "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// dialTime bounds one attempt to reach an agent that listens.
const dialTime = 20 * time.Second

// dialAgent returns a connection to the agent of a pod that has the key.
func (s *session) dialAgent(ctx context.Context, pod *corev1.Pod, key string) (net.Conn, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, dialTime, fmt.Errorf("the agent did not answer within %v", dialTime))
	defer cancel()
	dial, way := s.forward, "by port-forward"
	if s.inside {
		dial, way = s.dialPod, "at the pod's address"
	}
	raw, err := dial(bounded, pod)
	if err == nil {
		secured := tls.Client(raw, s.identity.TLS(key))
		if err = secured.HandshakeContext(bounded); err == nil {
			return agentConn{secured, raw}, nil
		}
		_ = raw.Close()
	}
	if bounded.Err() != nil {
		err = context.Cause(bounded)
	}
	return nil, fmt.Errorf("reach the agent in pod %s/%s %s: %w", pod.Namespace, pod.Name, way, err)
}

// agentConn is secured. Close does not wait to say goodbye, which could take long where nobody listens any more.
type agentConn struct {
	*tls.Conn
	raw net.Conn
}

func (c agentConn) Close() error { return c.raw.Close() }

// dialPod connects to the pod's own address.
func (s *session) dialPod(ctx context.Context, pod *corev1.Pod) (net.Conn, error) {
	if pod.Status.PodIP == "" {
		return nil, errors.New("the pod has no address")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(agentPort)))
}

// forward connects through the API server: by a websocket, or by SPDY alone where something in between knows no websockets.
func (s *session) forward(ctx context.Context, pod *corev1.Pod) (net.Conn, error) {
	address := s.client.CoreV1().RESTClient().Get().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	connection, err := s.forwardByWebsocket(ctx, address.String())
	if err != nil && noWebsocket(err) {
		connection, err = s.forwardBySPDY(ctx, address.String())
	}
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() }) // what follows takes no context
	defer stop()
	conn, err := newForwarded(connection)
	if err != nil {
		_ = connection.Close()
		return nil, err
	}
	return conn, nil
}

// noWebsocket tells whether it is worth while to try SPDY.
func noWebsocket(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

// forwardByWebsocket has SPDY within a websocket.
func (s *session) forwardByWebsocket(ctx context.Context, address string) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(s.config)
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
	return httpstreamspdy.NewClientConnection(portforward.NewTunnelingConnectionWithLogger(klog.FromContext(s.running), conn))
}

func (s *session) forwardBySPDY(ctx context.Context, address string) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(s.config)
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

func newForwarded(connection httpstream.Connection) (*forwarded, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(agentPort))
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
func (*forwarded) LocalAddr() net.Addr  { return forwardAddr{} }
func (*forwarded) RemoteAddr() net.Addr { return forwardAddr{} }

type forwardAddr struct{}

func (forwardAddr) Network() string { return "port-forward" }
func (forwardAddr) String() string  { return "port-forward" }
