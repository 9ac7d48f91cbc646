package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
)

func openLocal(t *testing.T) *sbx.Session {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	session, err := sbx.Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return session
}

// With python3 as a reader would run it; where sandboxes have none, the program says so.
func TestRun(t *testing.T) {
	session := openLocal(t)
	var output bytes.Buffer
	err := run(t.Context(), &output)
	if session.Sandbox().Command("python3", "-c", "").Run() != nil {
		require.ErrorContains(t, err, "this example needs python3")
		return
	}
	require.NoError(t, err)
	assert.Equal(t, "9 rows, median 16\n", output.String())
}

// The loop with sh, which is everywhere.
func TestSolve(t *testing.T) {
	session := openLocal(t)
	var told []error
	scripts := Answers("no-such-program", "echo 1,1 > result.csv", "for i in 1 2 3 4 5; do echo row,$i; done > result.csv")
	summary, err := Solve(t.Context(), session, "sh", func(ctx context.Context, wrong error) (string, error) {
		told = append(told, wrong)
		return scripts(ctx, wrong)
	})
	require.NoError(t, err)
	assert.Equal(t, Summary{Rows: 5, Median: 3}, summary)
	require.Len(t, told, 3)
	require.NoError(t, told[0])
	assert.ErrorContains(t, told[1], "no-such-program", "the model learns what the script printed")
	require.ErrorIs(t, told[2], ErrTooFew, "and what the function said")
	assert.Zero(t, session.SandboxCount(), "Solve leaves no sandbox behind")

	gaveUp := errors.New("no more ideas")
	_, err = Solve(t.Context(), session, "sh", func(context.Context, error) (string, error) { return "", gaveUp })
	require.ErrorIs(t, err, gaveUp)
	_, err = Solve(t.Context(), session, "sh", func(context.Context, error) (string, error) { return "exit 1", nil })
	var exit *sbx.ExitError
	require.ErrorAs(t, err, &exit)
}

func TestSummarizeThroughASession(t *testing.T) {
	path := filepath.Join(t.TempDir(), "result.csv")
	require.NoError(t, os.WriteFile(path, []byte("1\n5\n2\n4\n3\n"), 0o600))
	summary, err := sbxtest.Open(t).Function(Summarize).Call(t.Context(), path)
	require.NoError(t, err)
	assert.Equal(t, Summary{Rows: 5, Median: 3}, summary)
}
