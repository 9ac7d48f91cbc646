package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/cgroup"
)

// systemdTime is how long the user's systemd has to answer.
const systemdTime = 5 * time.Second

// isUnit tells whether a group is one of systemd's that can have processes.
func isUnit(path string) bool {
	kind := filepath.Ext(path)
	return kind == ".service" || kind == ".scope"
}

// handedOver asks the user's own systemd whether it has handed over the program's cgroup, which it does not mark, as the system's does. Where
// nobody answers, it has not.
func handedOver(ctx context.Context) bool {
	_, own := cgroup.Own("memory")
	if own == "" || !isUnit(own) || isDelegated(own) || !isWithinDelegated(own) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, systemdTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "--user", "show", "--property=Delegate", "--value", "--", filepath.Base(own))
	cmd.Env = append(os.Environ(), fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", os.Getuid())) // which not all have that it starts
	answer, err := cmd.Output()
	return err == nil && strings.TrimSpace(string(answer)) == "yes"
}

// isWithinDelegated tells whether a group above was handed over, as the one of the user's systemd is.
func isWithinDelegated(path string) bool {
	for path = filepath.Dir(path); isGroup(path); path = filepath.Dir(path) {
		if isDelegated(path) {
			return true
		}
	}
	return false
}
