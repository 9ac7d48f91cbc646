//go:build !sbxworker

package kubernetes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
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

// forward connects through the API server.
func (s *session) forward(ctx context.Context, pod *corev1.Pod) (net.Conn, error) {
	address := s.client.CoreV1().RESTClient().Get().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	return forward.Dial(ctx, s.config, klog.FromContext(s.running), address.String(), agentPort)
}
