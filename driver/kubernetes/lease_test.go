package kubernetes

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The cluster deletes each pod whose Lease is gone: a long map would have it make and delete one for each input.
func TestASessionWithoutItsLeaseMakesNoPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		client, err := kubeclient.NewForConfig(&rest.Config{Transport: roundTripper(func(r *http.Request) *http.Response {
			requests++
			return &http.Response{
				StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
				Body: io.NopCloser(strings.NewReader(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`)),
			}
		})})
		require.NoError(t, err)
		s := &session{cluster: &cluster{namespace: "jobs"}, client: client, name: "sbx-a", spec: driver.SessionSpec{Logger: slog.New(slog.DiscardHandler)}}
		s.renew(t.Context())

		_, err = s.Create(t.Context(), driver.Spec{ID: "s-a-1"})
		assert.ErrorContains(t, err, "the session's Lease jobs/sbx-a was deleted")
		assert.Equal(t, 1, requests, "of which one found that there is no Lease")
	})
}

type roundTripper func(*http.Request) *http.Response

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }
