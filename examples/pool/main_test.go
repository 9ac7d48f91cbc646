package main

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
)

func TestRun(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	var output bytes.Buffer
	require.NoError(t, run(t.Context(), &output))
	lines := strings.Split(output.String(), "\n")
	assert.Equal(t, "0 0 <nil>", lines[0])
	assert.Equal(t, "19 361 <nil>", lines[19])
	assert.Regexp(t, `^20  sbx: sandbox s-\w+-\d: run "sh": sh: exit status 3$`, lines[20])
	assert.Equal(t, "5 sandboxes, 20 commands succeeded", lines[21])
}

func TestRunAll(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	session, err := sbx.Open(t.Context())
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()

	// Each job says in which sandbox it ran, by what the ones before it left there.
	jobs := make([]Job, 12)
	for i := range jobs {
		jobs[i].Script = "echo x >> jobs; wc -l < jobs"
	}
	RunAll(t.Context(), session, 2, jobs)
	first := 0
	for _, job := range jobs {
		require.NoError(t, job.Err)
		if job.Output == "1" {
			first++
		}
	}
	assert.Equal(t, 2, session.SandboxCount())
	assert.LessOrEqual(t, first, 2)
	assert.Positive(t, first)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	RunAll(ended, session, 2, jobs)
	for _, job := range jobs {
		require.ErrorIs(t, job.Err, context.Canceled)
	}
	var exit *sbx.ExitError
	jobs = []Job{{Script: "exit 3"}}
	RunAll(t.Context(), session, 1, jobs)
	require.ErrorAs(t, jobs[0].Err, &exit)
	assert.Equal(t, 3, exit.Exit.Code)
}
