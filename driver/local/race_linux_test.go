package local_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

// A worker runs before process 1 executes itself as the agent, and could have had its memory between that and its becoming
// undumpable. A shell is up early enough to try.
func TestProcess1IsNeverDumpable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\ni=0\nwhile [ $i -lt 3000 ]; do\n"+
		"if [ -e /proc/1/mem ]; then echo seen; exit; fi; i=$((i+1))\ndone\n[ -e /proc/self/mem ] && echo hidden\n"), 0o755))
	s := spec(t)
	s.Worker = worker(path)
	session, err := local.New(nil).Open(testContext(t), s)
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close(testContext(t))) }()
	for i := range 20 {
		_, p := start(t, session, fmt.Sprint(i), "")
		stdout, stderr, exit := output(t, p)
		require.Equal(t, driver.Exit{}, exit, stderr)
		require.Equal(t, "hidden\n", stdout, "try %d", i)
	}
}
