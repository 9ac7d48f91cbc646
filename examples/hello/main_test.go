package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/sbxtest"
)

func TestCount(t *testing.T) {
	count := sbxtest.Open(t).Function(Count)

	words, err := count.Call(t.Context(), "an unchanged Go function")
	require.NoError(t, err)
	assert.Equal(t, 4, words)

	var got []int
	for words, err := range count.Map(t.Context(), slices.Values([]string{"one", "one two", " "})) {
		if err != nil {
			assert.ErrorIs(t, err, ErrEmpty)
		}
		got = append(got, words)
	}
	assert.Equal(t, []int{1, 2, 0}, got)
}
