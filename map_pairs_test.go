package sbx_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMapsOfPairs(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(2))
		words := func(yield func([]string, string) bool) {
			for i := range 20 {
				if !yield([]string{fmt.Sprint(i), "x"}, "-") {
					return
				}
			}
		}
		i := 0
		for text, err := range session.Function2(Join).Map(t.Context(), words) {
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("%d-x", i), text)
			i++
		}
		assert.Equal(t, 20, i)
		seen := map[int]bool{}
		for r := range session.Function2(Join).MapUnordered(t.Context(), words) {
			assert.Equal(t, sbx.Result2[[]string, string, string]{
				Index: r.Index, A: []string{fmt.Sprint(r.Index), "x"}, B: "-", Output: fmt.Sprintf("%d-x", r.Index),
			}, r)
			seen[r.Index] = true
		}
		assert.Len(t, seen, 20)
	})
}

func TestMapsOfActions(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	check := session.Action(Check)
	texts := func(yield func(string) bool) {
		for i := range 10 {
			if !yield([]string{"text", ""}[i%2]) {
				return
			}
		}
	}
	i := 0
	for err := range check.Map(t.Context(), texts) {
		if i%2 == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, ErrOdd)
			assert.Equal(t, i, callError(t, err).Index)
		}
		i++
	}
	assert.Equal(t, 10, i)
	i = 0
	for r := range check.MapUnordered(t.Context(), texts) {
		assert.Equal(t, r.Input == "", errors.Is(r.Err, ErrOdd))
		i++
	}
	assert.Equal(t, 10, i)
	i = 0
	for err := range check.Map(t.Context(), texts, sbx.FailFast()) {
		assert.Equal(t, i == 1, err != nil)
		i++
	}
	assert.Equal(t, 2, i)
}

func TestMisuseOfMapsOfPairsAndActions(t *testing.T) {
	session := sbxtest.Open(t)
	var option *sbx.OptionError
	n := 0
	for _, err := range session.Function2(Join).Map(t.Context(), nil) {
		require.ErrorAs(t, err, &option)
		n++
	}
	results := session.Function2(Join).MapUnordered(t.Context(), func(yield func([]string, string) bool) { yield(nil, "") })
	for r := range results {
		require.NoError(t, r.Err)
	}
	for r := range results {
		require.ErrorIs(t, r.Err, sbx.ErrRangedTwice)
		assert.Equal(t, -1, r.Index)
		n++
	}
	assert.Equal(t, 2, n)
	for err := range session.Action(Check).Map(t.Context(), nil) {
		require.ErrorAs(t, err, &option)
		n++
	}
	assert.Equal(t, 3, n)
}
