package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEveryShapeHasItsScript holds the matrix of docs/generator.md to the scripts, in both directions.
func TestEveryShapeHasItsScript(t *testing.T) {
	text, err := os.ReadFile("../../docs/generator.md")
	require.NoError(t, err)
	var named []string
	for _, row := range regexp.MustCompile(`(?m)^\|.*\| (\S+\.txtar) \|$`).FindAllStringSubmatch(string(text), -1) {
		named = append(named, row[1])
	}
	slices.Sort(named)
	paths, err := filepath.Glob("testdata/real/*.txtar")
	require.NoError(t, err)
	var scripts []string
	for _, path := range paths {
		scripts = append(scripts, filepath.Base(path))
	}
	assert.Equal(t, scripts, slices.Compact(named))
}
