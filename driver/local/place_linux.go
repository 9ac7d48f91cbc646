package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/internal/cgroup"
)

// Where cgroups can be made:
//
//   - in version 1, below the program's own group;
//   - in version 2, below the program's own group, if that was delegated (systemd marks such groups, the user's own says so when asked), nothing is to be seen above it, as in a
//     container, or nobody else is in it and it is none of systemd's units; the program must leave the group for that, to one below it;
//   - in version 2, for root, beside the program's own group or higher, wherever the controllers are passed on.

// programGroup is the name of the group to which the program moves.
const programGroup = groupPrefix + "program"

// controllers are the cgroup controllers of the limits that need one.
var controllers = map[string]string{driver.LimitMemory: "memory", driver.LimitCPUs: "cpu"}

// A placement is where groups can be made, and for which limits.
type placement struct {
	version int
	path    string
	limits  []string
	moves   bool // the program is in it, and must leave
}

// findPlaces returns one place for each hierarchy that holds limits, and why limits without a place have none. handedOver is what systemd says of the program's
// group.
func findPlaces(handedOver bool) ([]placement, map[string]control.Refusal) {
	refused := map[string]control.Refusal{}
	var places []placement
	var unified []string // limits that version 1 does not have
	var own string       // the program's group in version 2
	for _, limit := range []string{driver.LimitMemory, driver.LimitCPUs} {
		v1, v2 := cgroup.Own(controllers[limit])
		own = v2
		if v1 == "" {
			unified = append(unified, limit)
			continue
		}
		if err := unix.Faccessat(unix.AT_FDCWD, v1, unix.W_OK, unix.AT_EACCESS); err != nil {
			refused[limit] = refuse(fmt.Errorf("the cgroup %s can't be written: %w", v1, err))
			continue
		}
		// Controllers may share a hierarchy.
		if i := slices.IndexFunc(places, func(p placement) bool { return p.path == v1 }); i >= 0 {
			places[i].limits = append(places[i].limits, limit)
		} else {
			places = append(places, placement{version: 1, path: v1, limits: []string{limit}})
		}
	}
	if len(unified) == 0 {
		return places, refused
	}
	best := findUnified(own, unified, handedOver)
	if len(best.limits) > 0 {
		places = append(places, best)
	}
	for _, limit := range unified {
		if !slices.Contains(best.limits, limit) {
			refused[limit] = refuseUnified(own, controllers[limit], handedOver)
		}
	}
	return places, refused
}

// findUnified returns the place in the hierarchy of version 2 that holds most of the limits, the nearest to the program's own group.
func findUnified(own string, limits []string, handedOver bool) (best placement) {
	if own == "" {
		return best
	}
	consider := func(path, file string, moves bool) {
		var held []string
		for _, limit := range limits {
			if lists(filepath.Join(path, file), controllers[limit]) {
				held = append(held, limit)
			}
		}
		if len(held) > len(best.limits) && mayArrange(path) {
			best = placement{version: 2, path: path, limits: held, moves: moves}
		}
	}
	if filepath.Base(own) == programGroup { // an earlier session has moved the program
		consider(filepath.Dir(own), "cgroup.subtree_control", false)
		return best
	}
	if isRoot(own) {
		consider(own, "cgroup.controllers", false)
		return best
	}
	if handedOver || isDelegated(own) || !isGroup(filepath.Dir(own)) || isOurs(own) {
		consider(own, "cgroup.controllers", true)
	}
	if os.Geteuid() == 0 {
		for path := filepath.Dir(own); isGroup(path); path = filepath.Dir(path) {
			if isRoot(path) {
				consider(path, "cgroup.controllers", false)
			} else {
				consider(path, "cgroup.subtree_control", false)
			}
		}
	}
	return best
}

// lists tells whether a file holds a word.
func lists(path, word string) bool {
	content, _ := os.ReadFile(path)
	return slices.Contains(strings.Fields(string(content)), word)
}

// isGroup tells whether path is a group of version 2, and isRoot whether it is the root of the hierarchy, where processes don't matter. The
// root of a container's view is no such root.
func isGroup(path string) bool { return exists(filepath.Join(path, "cgroup.controllers")) }

func isRoot(path string) bool { return isGroup(path) && !exists(filepath.Join(path, "cgroup.events")) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mayArrange tells whether groups can be made in path, and processes put there.
func mayArrange(path string) bool {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Faccessat(unix.AT_FDCWD, filepath.Join(path, name), unix.W_OK, unix.AT_EACCESS) != nil {
			return false
		}
	}
	return true
}

// isDelegated tells whether systemd has handed over the group.
func isDelegated(path string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		var value [8]byte
		if n, err := unix.Getxattr(path, name, value[:]); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

// isOurs tells whether nobody but the program has to do with the group. Of a unit that it has not handed over systemd has: when memory runs out
// anywhere below, it stops all of the unit (OOMPolicy=).
func isOurs(path string) bool {
	return !isUnit(path) && isAlone(path)
}

// isAlone tells whether only the program and what it has started are in the group.
func isAlone(path string) bool {
	processes, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return false
	}
	program := os.Getppid()
	for _, pid := range strings.Fields(string(processes)) {
		if n, err := strconv.Atoi(pid); err != nil || !descends(n, program) {
			return false
		}
	}
	return true
}

// descends tells whether a process is another one, or was started by it or by one that it has started. A process that has ended does.
func descends(pid, from int) bool {
	for pid != from {
		if pid <= 1 {
			return false
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return errors.Is(err, os.ErrNotExist)
		}
		// "PID (NAME) STATE PARENT …", with any bytes in the name
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return true
}

// refuse is for cgroups that can't be written.
func refuse(err error) control.Refusal {
	remedies := []string{"run the program as root"}
	if os.Geteuid() == 0 {
		remedies = []string{"let the program write to its cgroup; a container gets it with --privileged, or with --cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw"}
	}
	return control.Refusal{Why: err.Error(), Remedies: remedies}
}

// refuseUnified says why no group of version 2 holds a controller.
func refuseUnified(own, controller string, handedOver bool) control.Refusal {
	switch {
	case own == "":
		return control.Refusal{Why: fmt.Sprintf("no cgroup hierarchy with the %s controller is mounted", controller), Remedies: []string{"mount cgroup2 at /sys/fs/cgroup"}}
	case os.Geteuid() == 0:
		return refuse(fmt.Errorf("the %s controller is not to be had for groups near the cgroup %s", controller, own))
	case !mayArrange(own) || !handedOver && !isDelegated(own) && !isOurs(own):
		return control.Refusal{Why: fmt.Sprintf("the cgroup %s was not delegated to this user", own),
			Remedies: []string{"start the program with systemd-run --user --scope -p Delegate=yes", "if it is a service of the user's, write Delegate=yes below [Service] in its unit"}}
	}
	return control.Refusal{Why: fmt.Sprintf("the %s controller was not delegated to this user with the cgroup %s", controller, own), Remedies: []string{
		"have systemd delegate it: Delegate=cpu memory pids below [Service] in /etc/systemd/system/user@.service.d/delegate.conf, then systemctl daemon-reload and a new login",
	}}
}
