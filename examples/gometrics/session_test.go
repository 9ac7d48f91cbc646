package main

import (
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
)

// The same function through a session. sbxtest's runs in this process, so it works anywhere, but every argument and
// result is encoded as for a sandbox: what doesn't survive that is found here.
func TestAnalyzeThroughASession(t *testing.T) {
	analyze := sbxtest.Open(t).Function(Analyze)
	p := Package{Path: "p", Files: []File{{Name: "p.go", Source: "package p\n\nfunc F() {}\n"}, {Name: "broken.go"}}}

	got, err := analyze.Call(t.Context(), p)
	require.NoError(t, err)
	want, err := Analyze(t.Context(), p)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

// And the whole of it in real sandboxes, on ten packages of the standard library.
func TestAnalyzeInSandboxes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	root, err := standardLibrary(t.Context())
	require.NoError(t, err)
	packages := map[string]Package{}
	for p := range walk(root, func(err error) { t.Error(err) }) {
		packages[p.Path] = p
		if len(packages) == 10 {
			break
		}
	}
	require.Len(t, packages, 10)

	session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(2))
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	seen := map[string]bool{}
	for result := range session.Function(Analyze).MapUnordered(t.Context(), maps.Values(packages)) {
		require.NoError(t, result.Err)
		want, err := Analyze(t.Context(), result.Input)
		require.NoError(t, err)
		assert.Equal(t, want, result.Output)
		assert.Positive(t, result.Output.Lines)
		seen[result.Input.Path] = true
	}
	assert.Equal(t, slices.Sorted(maps.Keys(packages)), slices.Sorted(maps.Keys(seen)))
}
