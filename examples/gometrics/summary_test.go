package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSummary(t *testing.T) {
	var s summary
	s.add(Package{Path: "small"}, Metrics{Files: 1, Lines: 10, Functions: 2, Complexity: 3, MostComplex: Measured{"f", "a.go:3", 2}}, nil)
	s.add(Package{Path: "large"}, Metrics{
		Files: 2, Lines: 20, Functions: 2, Complexity: 9, MostComplex: Measured{"T.g", "b.go:7", 8}, Unparsed: []string{"c.go:1:1: oops"},
	}, nil)
	s.add(Package{Path: "lost"}, Metrics{}, errors.New("sandbox lost"))
	s.sandboxes, s.took = 2, 1500*time.Millisecond

	var out strings.Builder
	require.NoError(t, s.print(&out))
	assert.Equal(t, strings.TrimLeft(`
PACKAGE  FILES  LINES  FUNCTIONS  COMPLEXITY  MEAN  MOST COMPLEX FUNCTION
large    2      20     2          9           4.5   T.g 8 (b.go:7)
small    1      10     2          3           1.5   f 2 (a.go:3)
not valid Go: large/c.go:1:1: oops
failed: lost: sandbox lost

2 packages, 3 files, 30 lines, 4 functions of mean complexity 3.0, 1 files not parsed
2 sandboxes, 3 calls, 1 failed, 1.5s, 2 calls per second
`, "\n"), out.String())
}

func TestSummaryShowsTheTop(t *testing.T) {
	var s summary
	for i := range 100 {
		s.add(Package{Path: fmt.Sprintf("p%02d", i)}, Metrics{Complexity: i}, nil)
		s.add(Package{Path: "lost"}, Metrics{}, errors.New("sandbox lost"))
	}
	s.took = time.Second
	var out strings.Builder
	require.NoError(t, s.print(&out))
	assert.Contains(t, out.String(), "\np99 ")
	assert.Contains(t, out.String(), "\np85 ")
	assert.NotContains(t, out.String(), "\np84 ")
	assert.Equal(t, shownFailures, strings.Count(out.String(), "failed: lost"))
	assert.Contains(t, out.String(), "200 calls, 100 failed")
}
