package kubernetes_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
)

// Who can't reach the cluster is not told to ask for more rights.
func TestAnAPIServerThatIsNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	remedies, _ := openInVain(t, &kubernetes.Options{Config: &rest.Config{Host: "http://" + address}, Namespace: "away"})
	assert.Contains(t, remedies, "kubectl get pods -n away")
	assert.NotContains(t, remedies, "rbac.yaml")
}

// openInVain returns what would help a session that can't be opened, and its error.
func openInVain(t *testing.T, o *kubernetes.Options) (remedies string, err error) {
	t.Helper()
	own := func(context.Context, driver.Platform) (string, error) { return worker.Executable() }
	_, err = kubernetes.New(o).Open(t.Context(), driver.SessionSpec{ID: "away", Worker: own, Logger: slog.New(slog.DiscardHandler)})
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	return strings.Join(unavailable.Remedies, ""), err
}

// Nor is one whose token has expired.
func TestAnAPIServerThatKnowsNobody(t *testing.T) {
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(server.Close)
		remedies, _ := openInVain(t, &kubernetes.Options{Config: &rest.Config{Host: server.URL}, Namespace: "away"})
		assert.Contains(t, remedies, "renew the token")
		assert.NotContains(t, remedies, "rbac.yaml")
	}
}

func TestANamespaceThatIsNotThere(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/leases") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "status": {"incomplete": true}}`))
	}))
	t.Cleanup(server.Close)
	remedies, _ := openInVain(t, &kubernetes.Options{Config: &rest.Config{Host: server.URL}, Namespace: "away"})
	assert.Contains(t, remedies, "kubectl create namespace away")
}

// The files are named in which no cluster was found.
func TestNoKubeconfig(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", missing)
	_, err := openInVain(t, nil)
	assert.ErrorContains(t, err, "no current context with a cluster in "+missing)
}
