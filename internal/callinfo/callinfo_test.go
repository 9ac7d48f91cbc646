package callinfo

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A function has ended when Run returns, and none begins later, whatever its interceptors do.
func TestInterceptorsThatReturnBeforeNextHas(t *testing.T) {
	defer func() { interceptors.list = nil }()
	early := errors.New("early")
	for _, returned := range []error{nil, early} {
		begun, ended := make(chan struct{}), false
		interceptors.list = []Interceptor{func(ctx context.Context, _ Info, next func(context.Context) error) error {
			go func() { _ = next(ctx) }()
			<-begun
			return returned
		}}
		err := Run(t.Context(), Info{}, nil, func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			ended = true
			return ctx.Err()
		})
		require.Error(t, err)
		if returned == nil {
			require.ErrorIs(t, err, ErrNextRuns)
		} else {
			require.ErrorIs(t, err, early)
		}
		assert.True(t, ended)
	}

	late := make(chan func(context.Context) error, 1)
	interceptors.list = []Interceptor{func(_ context.Context, _ Info, next func(context.Context) error) error {
		late <- next
		return nil
	}}
	err := Run(t.Context(), Info{}, nil, func(context.Context) error { t.Error("it runs"); return nil })
	require.ErrorIs(t, err, ErrNextMissed)
	require.ErrorIs(t, (<-late)(t.Context()), ErrNextTwice)
}
