package kubernetes_test

import (
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

// proxy stands between a session and the API server, reads its requests, and answers some itself.
type proxy struct {
	refuse func(*proxy, http.ResponseWriter, *http.Request) bool // answers a request, or tells that it has not; called with mu held
	behind http.Handler

	mu      sync.Mutex
	asked   map[string]int // by what they are about
	refused map[string]int
}

// newProxy returns one, and the tests' account by way of it.
func newProxy(t *testing.T, refuse func(*proxy, http.ResponseWriter, *http.Request) bool) (*proxy, *rest.Config) {
	t.Helper()
	server, err := url.Parse(account.Host)
	require.NoError(t, err)
	trusted, err := rest.TLSConfigFor(account)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: trusted}
	t.Cleanup(transport.CloseIdleConnections)
	p := &proxy{refuse: refuse, asked: map[string]int{}, refused: map[string]int{}, behind: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(server) },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	}}
	here := httptest.NewServer(p)
	t.Cleanup(here.Close)
	config := rest.AnonymousClientConfig(account)
	config.BearerToken = account.BearerToken
	config.Host, config.TLSClientConfig = here.URL, rest.TLSClientConfig{}
	return p, config
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.answers(w, r) {
		return
	}
	p.behind.ServeHTTP(w, r)
}

func (p *proxy) answers(w http.ResponseWriter, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := about(r)
	p.asked[what]++
	if !p.refuse(p, w, r) {
		return false
	}
	p.refused[what]++
	return true
}

// about is the subresource that a request is for, by the protocol that it would switch to, or else its method and the last of its path.
func about(r *http.Request) string {
	last := path.Base(r.URL.Path)
	switch {
	case r.Header.Get("Upgrade") != "":
		return last + " by " + r.Header.Get("Upgrade")
	case strings.Contains(r.URL.Path, "/pods/") && r.Method == http.MethodDelete:
		return "delete a pod"
	case r.URL.Query().Get("watch") != "":
		return "watch " + last
	}
	return r.Method + " " + last
}

// every refuses every nth request of each kind, as an API server does that is asked too much.
func every(n int) func(*proxy, http.ResponseWriter, *http.Request) bool {
	return func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
		if p.asked[about(r)]%n != 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return true
	}
}

func TestThrottledStorm(t *testing.T) {
	needCluster(t)
	const sandboxes = 40
	p, config := newProxy(t, every(3)) // the first of each kind, too
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config, o.Reach = config, kubernetes.PortForward }), sbx.MaxSandboxes(sandboxes))
	t.Cleanup(func() { t.Logf("refused: %v, of %v", p.refused, p.asked) })
	began := time.Now()
	require.NoError(t, session.Prewarm(t.Context(), sandboxes))
	t.Logf("there after %v", time.Since(began).Round(time.Millisecond))
	var calls sync.WaitGroup
	for range 2 * sandboxes {
		calls.Go(func() {
			answer, err := session.Function(echo).Call(t.Context(), "through")
			if assert.NoError(t, err) {
				assert.Equal(t, "through", answer)
			}
		})
	}
	calls.Wait()
	began = time.Now()
	require.NoError(t, session.Close())
	t.Logf("gone after %v", time.Since(began).Round(time.Millisecond))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, what := range []string{
		"POST pods", "watch pods", "GET log", "exec by websocket", "portforward by websocket", "delete a pod", "POST selfsubjectrulesreviews", "POST leases", "POST networkpolicies",
	} {
		assert.NotZero(t, p.refused[what], what)
	}
	assert.GreaterOrEqual(t, p.asked["POST pods"]-p.refused["POST pods"], sandboxes)
}

// A pod that could not be deleted costs Close no time, and its error says why.
func TestDeletesThatAreRefused(t *testing.T) {
	needCluster(t)
	refusing := true
	p, config := newProxy(t, func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
		if about(r) != "delete a pod" || !refusing {
			return false
		}
		if p.asked[about(r)] == 1 {
			time.Sleep(time.Second) // until Close looks who has not been deleted
		}
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return true
	})
	session, err := sbx.Open(t.Context(), sbx.Driver(onCluster(func(o *kubernetes.Options) { o.Config = config })))
	require.NoError(t, err)
	_, err = session.Function(echo).Call(t.Context(), "")
	require.NoError(t, err)
	require.ErrorContains(t, session.Close(), "provide credentials")
	p.mu.Lock()
	refusing = false
	p.mu.Unlock()
	require.NoError(t, session.Close())
}

// What client-go says of its own limit goes where the session's log does, and not to the program's standard error.
func TestLimitOfRequestsIsLogged(t *testing.T) {
	needCluster(t)
	config := rest.CopyConfig(account)
	config.QPS, config.Burst = 0.5, 1
	var log strings.Builder
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config = config }), sbx.Logger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	_, err := session.Function(echo).Call(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, session.Close())
	assert.Contains(t, log.String(), "client-side throttling")
}

func TestNoWebsockets(t *testing.T) {
	needCluster(t)
	p, config := newProxy(t, func(_ *proxy, w http.ResponseWriter, r *http.Request) bool {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			return false
		}
		http.Error(w, "what is a websocket?", http.StatusBadRequest)
		return true
	})
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Config, o.Reach = config, kubernetes.PortForward }))
	answer, err := session.Function(echo).Call(t.Context(), "through")
	require.NoError(t, err)
	assert.Equal(t, "through", answer)
	require.NoError(t, session.Close())
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, what := range []string{"exec", "portforward"} {
		assert.NotZero(t, p.refused[what+" by websocket"], what)
		assert.NotZero(t, p.asked[what+" by SPDY/3.1"], what)
		assert.Zero(t, p.refused[what+" by SPDY/3.1"], what)
	}
}
