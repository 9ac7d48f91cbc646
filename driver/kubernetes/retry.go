//go:build !sbxworker

package kubernetes

import (
	"context"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// retryTime is how long an API server may be away, such as while it restarts.
	retryTime = 30 * time.Second
	// firstPause is after the first try that failed; each pause after that is twice as long, up to maxPause.
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// retry runs a request that does no harm if it is run twice again, as long as its errors tell of the way to the API server, or of its own state, and not of
// the request. A server that says when to come again is obeyed by client-go.
func retry(ctx context.Context, request func() error) error {
	var pause pauses
	for end := time.Now().Add(retryTime); ; {
		err := request()
		if err == nil || ctx.Err() != nil || !transient(err) || time.Now().After(end) {
			return err
		}
		if !pause.wait(ctx) {
			return err
		}
	}
}

// pauses are between tries of something: the zero value is before the first.
type pauses time.Duration

// wait pauses, and reports whether ctx has not ended meanwhile.
func (p *pauses) wait(ctx context.Context) bool {
	*p = min(max(2**p, pauses(firstPause)), pauses(maxPause))
	select {
	case <-time.After(time.Duration(*p)):
		return true
	case <-ctx.Done():
		return false
	}
}

// transient tells whether a request that failed may well succeed later.
func transient(err error) bool {
	status, answered := errors.AsType[*apierrors.StatusError](err)
	if !answered {
		return true
	}
	code := status.ErrStatus.Code
	return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
}
