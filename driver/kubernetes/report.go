//go:build !sbxworker

package kubernetes

import (
	"github.com/sandboxfn/sbx/driver"
)

// makeReport says what the session's sandboxes hold.
func (s *session) makeReport() driver.Report {
	held := func(name, by string) driver.Capability { return driver.Capability{Name: name, Held: true, By: by} }
	processes := held(driver.LimitProcesses, "RLIMIT_NPROC of a user id that the sandbox has for itself")
	if s.options.User != 0 {
		processes = driver.Capability{
			Name: driver.LimitProcesses, Why: "Options.User gives all sandboxes one user id, and the kernel counts by that",
			Remedies: []string{"leave Options.User out", "have podPidsLimit set for the nodes' kubelets"},
		}
	}
	network := driver.Capability{Name: "network", Why: "Options.Network lets sandboxes use it"}
	switch {
	case s.denied:
		network.Why = "a NetworkPolicy denies it, and whether that is enforced is up to the cluster's network plugin, which nobody can be asked about"
		network.Remedies = []string{"see what the plugin's documentation says of NetworkPolicy; Calico and Cilium enforce it"}
	case !s.options.Network:
		network.Why = "this user may not make a NetworkPolicy"
		network.Remedies = []string{bindRole}
	}
	return driver.Report{Driver: Name, Isolation: s.options.Isolation, Capabilities: []driver.Capability{
		held(driver.LimitCPUs, "the container's cpu limit, which is requested, too"),
		held(driver.LimitMemory, "the container's memory limit, which is requested, too"),
		processes,
		held(driver.LimitOpenFiles, "RLIMIT_NOFILE"),
		held(driver.LimitDisk, "folders in memory of that size, which counts as the sandbox's memory"),
		{
			Name: driver.LimitInodes, Why: "Kubernetes has no limit of files for the folders of a pod",
			Remedies: []string{"limit disk and memory: each file in a folder in memory takes some"},
		},
		network,
	}}
}
