package local

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// report says what sandboxes hold, given what the launcher found.
func report(ready control.Event) driver.Report {
	r := driver.Report{Driver: driverName, Isolation: driver.SharedKernel, Capabilities: []driver.Capability{
		{Name: "files", Held: true, By: "a mount namespace with a root of its own, read-only but for private folders in memory"},
		{Name: "processes of others", Held: true, By: "a pid namespace"},
		{Name: "network", Held: true, By: "a network namespace with loopback only"},
		{Name: "privileges", Held: true, By: "a user namespace, no capabilities, no_new_privs"},
		{Name: "system calls", Held: true, By: "a seccomp filter that lists what is allowed"},
		{Name: "commands to devices", Held: true, By: "a Landlock domain, but to the sandbox's own terminals"},
	}}
	if setup.LandlockVersion() < setup.LandlockDevices {
		c := &r.Capabilities[len(r.Capabilities)-1]
		c.Held, c.By = false, ""
		c.Why, c.Remedies = "the kernel has no Landlock of version 5, so those that /dev/null and the like take can be given", []string{"use Linux 6.10 or later"}
	}
	folders := "the size of /work, of /tmp and of /dev/shm, each a file system in memory"
	mechanisms := map[string]string{
		driver.LimitProcesses: "RLIMIT_NPROC, counted in the sandbox's user namespace",
		driver.LimitOpenFiles: "RLIMIT_NOFILE",
		driver.LimitDisk:      folders,
		driver.LimitInodes:    strings.Replace(folders, "size", "inodes", 1),
	}
	for _, limit := range driver.LimitNames() {
		c := driver.Capability{Name: limit, By: mechanisms[limit]}
		if by, ok := ready.Mechanisms[limit]; ok {
			c.By = by
		}
		if c.Held = c.By != ""; !c.Held {
			c.Why, c.Remedies = ready.Refused[limit].Why, ready.Refused[limit].Remedies
		}
		r.Capabilities = append(r.Capabilities, c)
	}
	return r
}

// goLimits tells the Go runtime in the sandbox, which can't see cgroups, what it has to live with, unless env does.
func goLimits(env []string, r driver.Resources) []string {
	set := func(name string) bool {
		return slices.ContainsFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	}
	// With fewer threads that run Go code at a time the quota is spent evenly, instead of in a burst and a pause.
	if cores := int(math.Ceil(r.CPUs)); cores > 0 && cores < runtime.NumCPU() && !set("GOMAXPROCS") {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", cores))
	}
	// The garbage collector works harder near its limit; what is not Go's heap needs the rest.
	if r.MemoryMiB > 0 && !set("GOMEMLIMIT") {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%dKiB", r.MemoryMiB*1024/10*9))
	}
	return env
}
