package kubernetes_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// relay stands between a session and the API server, and can be cut.
type relay struct {
	to string

	mu       sync.Mutex
	listener net.Listener
	cut      bool // whoever connects is sent away
	silent   bool // nothing goes through, and nobody is told
	conns    map[net.Conn]struct{}
}

// newRelay returns one, and the tests' account by way of it.
func newRelay(t *testing.T) (*relay, *rest.Config) {
	server, err := url.Parse(account.Host)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{to: server.Host, listener: listener, conns: map[net.Conn]struct{}{}}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { r.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.drop()
		tasks.Wait()
	})
	config := rest.CopyConfig(account)
	config.Host = "https://" + listener.Addr().String()
	config.ServerName = server.Hostname()
	return r, config
}

func (r *relay) carry(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r.mu.Lock()
	cut := r.cut
	r.conns[conn] = struct{}{}
	r.mu.Unlock()
	if cut {
		return
	}
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.conns[server] = struct{}{}
	r.mu.Unlock()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		both.Go(func() {
			_, _ = io.Copy(gate{r, pair[0]}, pair[1])
			_ = pair[0].Close()
		})
	}
	both.Wait()
}

// gate drops what is written while its relay is silent.
type gate struct {
	r    *relay
	conn net.Conn
}

func (g gate) Write(p []byte) (int, error) {
	g.r.mu.Lock()
	silent := g.r.silent
	g.r.mu.Unlock()
	if silent {
		return len(p), nil
	}
	return g.conn.Write(p)
}

func (r *relay) set(cut, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.silent = cut, silent
}

// drop breaks all connections.
func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		_ = conn.Close()
	}
	clear(r.conns)
}

// forwarded is for tests of connections that go through the API server.
func forwarded(o *kubernetes.Options) { o.Reach = kubernetes.PortForward }

func TestNetworkBreaks(t *testing.T) {
	needCluster(t)
	r, config := newRelay(t)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config, o.Reach = config, kubernetes.PortForward }))
	call, pod := begin(t, session)
	r.set(true, false)
	r.drop()
	assert.Equal(t, kubernetes.ReasonDisconnected, reason(t, lost(t, call, soon)))
	ended(t, pod.Name)
	r.set(false, false)
	answer, err := session.Function(echo).Call(t.Context(), "on")
	require.NoError(t, err, "the session goes on when the network does")
	assert.Equal(t, "on", answer)
}

func TestNetworkIsSilent(t *testing.T) {
	needCluster(t)
	r, config := newRelay(t)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config, o.Reach = config, kubernetes.PortForward }), sbx.Lease(3*time.Second))
	call, _ := begin(t, session)
	r.set(false, true)
	err := lost(t, call, 2*soon)
	assert.ErrorIs(t, err, sbx.ErrSilent)
	r.set(false, false)
	r.drop()
	answer, again := session.Function(echo).Call(t.Context(), "on")
	require.NoError(t, again)
	assert.Equal(t, "on", answer)
}

// control stops or starts a part of the cluster.
func control(t *testing.T, action, name string) {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), os.Getenv(controlVariable), action, name).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// needControl skips tests for which nobody knows how to stop parts of the cluster.
func needControl(t *testing.T) {
	needCluster(t)
	if os.Getenv(controlVariable) == "" {
		t.Skip("needs a program that stops and starts parts of the cluster: make test-kubernetes CLUSTER_CONTROL=program, as .ci/cluster is")
	}
}

func TestAPIServerRestarts(t *testing.T) {
	needControl(t)
	session := openSession(t, onCluster(forwarded))
	call, pod := begin(t, session)
	control(t, "stop", "kube-apiserver")
	started := false
	start := func() {
		if !started {
			started = true
			control(t, "start", "kube-apiserver")
		}
	}
	t.Cleanup(start)
	assert.Equal(t, kubernetes.ReasonDisconnected, reason(t, lost(t, call, soon)), "the connection went through it")
	start()
	ended(t, pod.Name)
	answer, err := session.Function(echo).Call(t.Context(), "on")
	require.NoError(t, err, "the session goes on")
	assert.Equal(t, "on", answer)
}

func TestKubeletRestarts(t *testing.T) {
	needControl(t)
	session := openSession(t, onCluster(forwarded))
	call, _ := begin(t, session)
	control(t, "stop", "kubelet")
	started := false
	start := func() {
		if !started {
			started = true
			control(t, "start", "kubelet")
		}
	}
	t.Cleanup(start)
	assert.Equal(t, kubernetes.ReasonDisconnected, reason(t, lost(t, call, soon)), "port-forwards go through it")
	start()
	answer, err := session.Function(echo).Call(t.Context(), "on")
	require.NoError(t, err, "the session goes on")
	assert.Equal(t, "on", answer)
}

func TestWithinTheClusterCallsGoOn(t *testing.T) {
	needControl(t)
	needWithin(t)
	session := openSession(t, onCluster(nil))
	call := session.Function(wait).Spawn(t.Context(), 20*time.Second)
	_, _ = session.Function(echo).Call(t.Context(), "") // both sandboxes are there
	for _, part := range []string{"kube-apiserver", "kubelet"} {
		control(t, "stop", part)
		answer, err := session.Function(echo).Call(t.Context(), part)
		control(t, "start", part)
		require.NoError(t, err)
		assert.Equal(t, part, answer, "a call while it is away")
	}
	answer, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "waited", answer)
}

// needWithin skips tests for which pods must be reached at their addresses.
func needWithin(t *testing.T) {
	needCluster(t)
	if !within() {
		t.Skip("needs a program that reaches pods by their addresses: " + withinVariable + "=1")
	}
}

func TestWithinTheClusterNothingIsForwarded(t *testing.T) {
	needWithin(t)
	role, err := admin.RbacV1().Roles(namespace).Get(t.Context(), "sbx", metav1.GetOptions{})
	require.NoError(t, err)
	for i, rule := range role.Rules {
		role.Rules[i].Resources = slices.DeleteFunc(rule.Resources, func(resource string) bool { return resource == "pods/portforward" })
	}
	_, err = admin.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "direct"}, Rules: role.Rules}, metav1.CreateOptions{})
	require.NoError(t, err)
	config, err := makeAccount(t.Context(), account, "direct", "direct")
	require.NoError(t, err)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config = config }))
	answer, err := session.Function(echo).Call(t.Context(), "direct")
	require.NoError(t, err)
	assert.Equal(t, "direct", answer)

	_, err = sbx.Open(t.Context(), sbx.Driver(onCluster(func(o *kubernetes.Options) { o.Config, o.Reach = config, kubernetes.PortForward })))
	assert.ErrorContains(t, err, "it lacks create pods/portforward, get pods/portforward", "who may not forward can't")
}
