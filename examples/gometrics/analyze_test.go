package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The function is an ordinary one, and tested as such: no session, no sandbox.
func TestAnalyze(t *testing.T) {
	const branches = `package p

func plain() {}

func (s *Set[K, V]) busy(ch chan int, a, b, c bool) int {
	for range 3 {
		if a && b || c {
			return 1
		}
	}
	for {
		switch {
		case a:
		case b, c:
		default:
		}
		select {
		case <-ch:
		default:
		}
		func() {
			if a {
			}
		}()
	}
}
`
	got, err := Analyze(t.Context(), Package{Path: "p", Files: []File{
		{Name: "empty.go", Source: "package p\n"},
		{Name: "branches.go", Source: branches},
		{Name: "broken.go", Source: "package p\n\nfunc {\n"},
	}})
	require.NoError(t, err)
	assert.Equal(t, Metrics{
		Files: 3, Lines: 1 + 26 + 3, Functions: 2,
		Complexity:  1 + 10, // one each; and two loops, two ifs, && and ||, two cases, one receive
		MostComplex: Measured{Name: "Set.busy", Position: "branches.go:5", Complexity: 10},
		Unparsed:    []string{"broken.go:3:6: expected 'IDENT', found '{'"},
	}, got)
	assert.InDelta(t, 5.5, got.Mean(), 1e-9)
}

func TestAnalyzeOfNothing(t *testing.T) {
	got, err := Analyze(t.Context(), Package{Path: "p"})
	require.NoError(t, err)
	assert.Zero(t, got)
	assert.Zero(t, got.Mean())
}

func TestAnalyzeHeedsItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Analyze(ctx, Package{Files: []File{{Name: "a.go", Source: "package a\n"}}})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestFunctionName(t *testing.T) {
	for receiver, want := range map[string]string{
		"":             "F",
		"(T)":          "T.F",
		"(t T)":        "T.F",
		"(t *T)":       "T.F",
		"(t (T))":      "T.F",
		"(t *T[K])":    "T.F",
		"(t *T[K, V])": "T.F",
	} {
		got, err := Analyze(t.Context(), Package{Files: []File{{Name: "a.go", Source: "package a\nfunc " + receiver + " F() {}\n"}}})
		require.NoError(t, err)
		assert.Equal(t, want, got.MostComplex.Name, "receiver %q", receiver)
	}
}
