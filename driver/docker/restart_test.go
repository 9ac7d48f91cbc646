//go:build !sbxworker

package docker_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
)

// The commands that stop, kill and start the engine, for who can do that with theirs.
const (
	stopVariable  = "SBX_TEST_DOCKER_STOP"
	killVariable  = "SBX_TEST_DOCKER_KILL"
	startVariable = "SBX_TEST_DOCKER_START"
)

// TestEngineRestarts stops the engine while a call runs. It ends its containers then, unless it was killed.
func TestEngineRestarts(t *testing.T) {
	for _, variable := range []string{stopVariable, killVariable} {
		t.Run(variable, func(t *testing.T) {
			if os.Getenv(variable) == "" || os.Getenv(startVariable) == "" {
				t.Skipf("it stops the engine if %s and %s say how to do that, and how to start it", variable, startVariable)
			}
			each(t, func(u *user) {
				sh := func(variable string) {
					output, err := exec.Command("sh", "-c", os.Getenv(variable)).CombinedOutput()
					require.NoError(u, err, "%s", output)
				}
				u.double()
				call := u.Function2(Double).Spawn(u.Context(), 1, 20*time.Second)
				u.runs()
				began := time.Now()
				sh(variable)
				stopped := time.Now()
				_, err := call.Result(u.Context())
				u.Logf("stopped in %v, and the call's result was there %v later: %v", stopped.Sub(began), time.Since(stopped), err)
				if err != nil {
					_, ok := errors.AsType[*sbx.SandboxLostError](err)
					assert.True(u, ok, "%v", err)
				}
				sh(startVariable)
				require.Eventually(u, func() bool {
					got, err := u.Function2(Double).Call(u.Context(), 21, 0)
					return err == nil && got == 42
				}, patience, 100*time.Millisecond)
			})
		})
	}
}
