package forward

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	protocol "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// A port-forward to a pod that is just ending is accepted, and nobody answers for its streams. Who gives up waits no longer for them.
func TestDialEndsWithItsContext(t *testing.T) {
	for _, websockets := range []bool{true, false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		given := errors.New("given up")
		ended := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key := r.Header.Get("Sec-WebSocket-Key")
			if key != "" && !websockets {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			upgrade := "Upgrade: SPDY/3.1\r\n" + "X-Stream-Protocol-Version: " + protocol.PortForwardV1Name
			if key != "" {
				sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
				upgrade = "Upgrade: websocket\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) +
					"\r\nSec-WebSocket-Protocol: " + protocol.WebsocketsSPDYTunnelingPortForwardV1
			}
			conn, stream, err := w.(http.Hijacker).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"+upgrade+"\r\n\r\n")
			_, err = stream.ReadByte() // the first stream is asked for
			assert.NoError(t, err)
			cancel(given)
			_, _ = io.Copy(io.Discard, stream)
			close(ended)
		}))

		began := time.Now()
		_, err := Dial(ctx, &rest.Config{Host: server.URL}, klog.Background(), server.URL, 1)
		require.ErrorIs(t, err, given, "websockets: %v", websockets)
		assert.Less(t, time.Since(began), 20*time.Second, "websockets: %v", websockets)
		if websockets {
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("the connection stays")
			}
		}
		server.CloseClientConnections()
		server.Close()
	}
}

// By SPDY it would be a text, of which nobody could tell that it is no use to try again.
func TestDialIsNotAllowed(t *testing.T) {
	for _, status := range []*metav1.Status{
		&apierrors.NewForbidden(schema.GroupResource{Resource: "pods/portforward"}, "sbx-1", errors.New("you may not")).ErrStatus,
		&apierrors.NewUnauthorized("you may not").ErrStatus,
	} {
		status.Kind, status.APIVersion = "Status", "v1"
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(status.Code))
			assert.NoError(t, json.NewEncoder(w).Encode(status))
		}))
		_, err := Dial(t.Context(), &rest.Config{Host: server.URL}, klog.Background(), server.URL, 1)
		assert.True(t, NotAllowed(err), "%v", err)
		assert.ErrorContains(t, err, "you may not")
		server.Close()
	}
}
