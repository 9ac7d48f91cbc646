package local

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

func TestGoLimits(t *testing.T) {
	limits := driver.Resources{CPUs: 0.5, MemoryMiB: 100}
	assert.Equal(t, []string{"A=1"}, goLimits([]string{"A=1"}, driver.Resources{Processes: 9}))
	assert.Equal(t, []string{"A=1", "GOMEMLIMIT=92160KiB"}, goLimits([]string{"A=1"}, driver.Resources{MemoryMiB: 100, CPUs: 10_000}))
	own := []string{"GOMAXPROCS=7", "GOMEMLIMIT=off"}
	assert.Equal(t, own, goLimits(own, limits))
}

// What can't be held is refused with the reason, and has remedies.
func TestReport(t *testing.T) {
	r := report(control.Event{
		Mechanisms: map[string]string{driver.LimitCPUs: "a cgroup"},
		Refused:    map[string]control.Refusal{driver.LimitMemory: {Why: "no cgroup", Remedies: []string{"make one"}}},
	})
	assert.NoError(t, r.Check(driver.Resources{CPUs: 1, Processes: 1, OpenFiles: 1, DiskMiB: 1, Inodes: 1}))
	assert.EqualError(t, r.Check(driver.Resources{CPUs: 1, MemoryMiB: 1}),
		"the local driver can't limit memory here: no cgroup; to go on, make one, or ask with sbx.LimitIfPossible, which goes on without the limit")
	assert.Contains(t, r.String(), "driver local: shared kernel\n")
	assert.Contains(t, r.String(), "\ncpus: held by a cgroup\nmemory: not held: no cgroup; to go on, make one\n")
}

// In gVisor nothing is held by what holds it without.
func TestGVisorReport(t *testing.T) {
	r := gvisorReport(report(control.Event{Mechanisms: map[string]string{driver.LimitCPUs: "a cgroup", driver.LimitMemory: "a cgroup"}}))
	for _, name := range []string{"privileges", "system calls", "commands to devices", driver.LimitOpenFiles, driver.LimitDisk} {
		assert.True(t, r.Capability(name).Held)
		assert.Contains(t, r.Capability(name).By, "gVisor's kernel", name)
	}
	for _, name := range []string{driver.LimitProcesses, driver.LimitInodes} {
		assert.False(t, r.Capability(name).Held)
		assert.NotEmpty(t, r.Capability(name).Remedies)
	}
	assert.Equal(t, "a cgroup", r.Capability(driver.LimitMemory).By, "gVisor and all that it holds are in it")
}
