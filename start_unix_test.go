//go:build unix

package sbx_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The first starts of a worker with these variables are killed.
const (
	shotsVariable = "TEST_SHOTS"
	shotsFile     = "TEST_SHOTS_FILE"
)

// A worker with this variable runs another program in its place before it is ready.
const otherVariable = "TEST_OTHER_PROGRAM"

func init() {
	if os.Getenv(otherVariable) != "" {
		panic(syscall.Exec("/bin/sleep", []string{"sleep", "3600"}, nil))
	}
	shots, err := strconv.Atoi(os.Getenv(shotsVariable))
	if err != nil {
		return
	}
	file, err := os.OpenFile(os.Getenv(shotsFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() >= int64(shots) {
		return
	}
	fmt.Fprint(file, "x")
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// A worker that somebody kills while it starts is started again, but not for ever.
func TestAStartThatSomebodyKillsIsTriedAgain(t *testing.T) {
	for shots, fails := range map[int]bool{1: false, 2: false, 9: true} {
		file := filepath.Join(t.TempDir(), "shots")
		session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Env(shotsVariable, strconv.Itoa(shots)), sbx.Env(shotsFile, file))
		n, err := session.Function(Double).Call(t.Context(), 4)
		text, readErr := os.ReadFile(file)
		require.NoError(t, readErr)
		if fails {
			var start *sbx.StartError
			require.ErrorAs(t, err, &start)
			require.ErrorContains(t, err, "killed")
			assert.Len(t, text, 3)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, 8, n)
		assert.Len(t, text, shots)
	}
}

// What this side kills because it can't become a worker any more was not killed by somebody else.
func TestAStartThatRunsAnotherProgramInItsPlace(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Env(otherVariable, "1"))
	_, err := session.Function(Double).Call(t.Context(), 4)
	require.ErrorAs(t, err, new(*sbx.StartError))
	require.ErrorContains(t, err, "syscall.Exec")
	assert.NotContains(t, err.Error(), "killed")
	assert.Zero(t, session.Stats().Started)
	assert.EqualValues(t, 1, session.Stats().StartsFailed)
}
