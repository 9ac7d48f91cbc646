package kubernetes_test

import (
	"context"
	"log/slog"
	"net"
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
	own := func(context.Context, driver.Platform) (string, error) { return worker.Executable() }
	_, err = kubernetes.New(&kubernetes.Options{Config: &rest.Config{Host: "http://" + address}, Namespace: "away"}).
		Open(t.Context(), driver.SessionSpec{ID: "away", Worker: own, Logger: slog.New(slog.DiscardHandler)})
	var unavailable *driver.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	remedies := strings.Join(unavailable.Remedies, "")
	assert.Contains(t, remedies, "kubectl get pods -n away")
	assert.NotContains(t, remedies, "rbac.yaml")
}
