package local

import (
	"fmt"
	"strings"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// request goes from the client to the launcher.
type request struct {
	Op      string `json:"op"`
	Sandbox string `json:"sandbox,omitempty"`
	// Env is the worker's environment, each entry ended by a zero byte; values need not be text.
	Env []byte `json:"env,omitempty"`
	// Limits must be held; Soft are tried.
	Limits driver.Resources `json:"limits,omitzero"`
	Soft   driver.Resources `json:"soft,omitzero"`
	// Mounts are the sandbox's; with opMount, the one that is passed.
	Mounts []control.Placed `json:"mounts,omitempty"`
	// These come with opOpen; Defaults are for all that Limits and Soft don't set, Runsc is the path of gVisor's program, if
	// it is to be used, OwnIDs is as in launcher, and HandedOver what the function says.
	Session  string           `json:"session,omitempty"`
	Defaults driver.Resources `json:"defaults,omitzero"`
	Runsc    string           `json:"runsc,omitempty"`
	OwnIDs   bool             `json:"own_ids,omitempty"`

	HandedOver bool `json:"handed_over,omitempty"`
}

const (
	opOpen  = "open"  // once, first; passes the program and the worker
	opStart = "start" // passes the worker's descriptors, in the order of control.Orders
	opKill  = "kill"
	opMount = "mount" // passes a detached mount
)

// maxEnv bounds a worker's whole environment, so that its base64 fits into a message.
const maxEnv = 96 << 10

// setupError is the failure that the event reports.
func setupError(e control.Event) *SetupError {
	return &SetupError{Sandbox: e.Sandbox, Step: e.Step, Err: e.Err()}
}

// packEnv checks env and packs it for a message.
func packEnv(env []string) ([]byte, error) {
	for _, entry := range env {
		if name, _, found := strings.Cut(entry, "="); !found || name == "" || strings.ContainsRune(entry, 0) {
			return nil, fmt.Errorf("environment entry %q: want KEY=VALUE without zero bytes", entry)
		}
	}
	packed := control.JoinEnv(env)
	if len(packed) > maxEnv {
		return nil, fmt.Errorf("its environment has %d bytes, of which %d fit; give long values as files (sbx.Mount, Sandbox.WriteFile)", len(packed), maxEnv)
	}
	return packed, nil
}
