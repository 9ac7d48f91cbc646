package driver

import (
	"context"
	"errors"
	"sync"
)

// StopAll stops sandboxes, all at once, and returns the errors of those that could not be: what a session's Close begins with.
func StopAll[S Sandbox](ctx context.Context, sandboxes []S) error {
	var stops sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, sandbox := range sandboxes {
		stops.Go(func() {
			if err := sandbox.Stop(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	stops.Wait()
	return errors.Join(errs...)
}
