package remote

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
)

// What kills a sandbox as a whole may kill its worker first, of which the agent still tells.
func TestKilledTogether(t *testing.T) {
	nobodyKnows := errors.New("nobody knows")
	killed := driver.Exit{Code: -1, Signal: syscall.SIGKILL}
	tests := map[string]struct {
		exit  agent.Exit
		lives bool // the agent
		want  driver.Exit
		err   error
	}{
		"killed, and the agent lives": {agent.Exit{Code: -1, Signal: 9}, true, killed, nil},
		"killed, and the agent, too":  {agent.Exit{Code: -1, Signal: 9}, false, driver.Exit{}, nobodyKnows},
		"out of memory":               {agent.Exit{Code: -1, Signal: 9, OutOfMemory: true}, false, driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}, nil},
		"exited":                      {agent.Exit{Code: 7}, false, driver.Exit{Code: 7}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			p := newProcess(&Agent{control: ours, closed: make(chan struct{})}, nil)
			go p.follow(func(context.Context) (driver.Exit, error) { return driver.Exit{}, nobodyKnows })
			require.NoError(t, agent.Write(theirs, agent.Event{Exit: &test.exit}))
			if !test.lives {
				require.NoError(t, theirs.Close())
			}
			exit, err := p.Wait(t.Context())
			assert.Equal(t, test.want, exit)
			assert.Equal(t, test.err, err)
			_ = theirs.Close()
		})
	}
}
