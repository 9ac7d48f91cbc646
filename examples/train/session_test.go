package main

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/sbxtest"
)

// The same function through a session: the report is equal, and ErrDiverged is ErrDiverged on this side, too.
func TestTrainThroughASession(t *testing.T) {
	train := sbxtest.Open(t).Function(Train)

	want, err := train.Local(t.Context(), good)
	require.NoError(t, err)
	got, err := train.Call(t.Context(), good)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	_, err = train.Call(t.Context(), bad)
	require.ErrorIs(t, err, ErrDiverged)
	assert.ErrorContains(t, err, "in epoch", "what the error said besides arrives, too")
}

func TestTrainIsCancelled(t *testing.T) {
	train := sbxtest.Open(t).Function(Train)
	endless := good
	endless.Epochs = math.MaxInt32

	ctx, cancel := context.WithCancel(t.Context())
	call := train.Spawn(ctx, endless)
	cancel()
	_, err := call.Result(t.Context())
	assert.ErrorIs(t, err, context.Canceled)
}
