package analyzer_test

import (
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/sandboxfn/sbx/codegen/analyzer"
)

func TestAnalyzer(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod")
	analysistest.Run(t, analysistest.TestData(), analyzer.Analyzer, "./...")
}
