package driver

import (
	"cmp"
	"fmt"
	"slices"
)

// Resources are limits of one sandbox. A field that is 0 leaves what the driver has as its default.
type Resources struct {
	// CPUs is how much processor time all processes of the sandbox get together, in cores: 0.5 is half the time of one.
	CPUs float64
	// MemoryMiB is how much memory all processes of the sandbox have together, in MiB. Files that the sandbox keeps in memory
	// count, and there is no swap space beyond. When it is used up, a process of the sandbox is killed (see [Exit]).
	MemoryMiB int
	// Processes is how many processes and threads the sandbox has at a time, the driver's own in it included: the worker
	// alone takes a dozen or two.
	Processes int
	// OpenFiles is how many descriptors each process has open at a time.
	OpenFiles int
	// DiskMiB is the size of each of the sandbox's writable folders, in MiB.
	DiskMiB int
	// Inodes is how many files and folders there are in each of the sandbox's writable folders.
	Inodes int
}

// The names of limits, in reports and errors.
const (
	LimitCPUs      = "cpus"
	LimitMemory    = "memory"
	LimitProcesses = "processes"
	LimitOpenFiles = "open files"
	LimitDisk      = "disk"
	LimitInodes    = "inodes"
)

// LimitNames returns the names of all limits, in the order of the fields of [Resources].
func LimitNames() []string {
	return Resources{1, 1, 1, 1, 1, 1}.Names()
}

// Names returns the names of the limits that r sets, in the order of its fields.
func (r Resources) Names() []string {
	var names []string
	for _, limit := range []struct {
		name string
		set  bool
	}{
		{LimitCPUs, r.CPUs != 0}, {LimitMemory, r.MemoryMiB != 0}, {LimitProcesses, r.Processes != 0},
		{LimitOpenFiles, r.OpenFiles != 0}, {LimitDisk, r.DiskMiB != 0}, {LimitInodes, r.Inodes != 0},
	} {
		if limit.set {
			names = append(names, limit.name)
		}
	}
	return names
}

// Or returns r with the limits that it does not set as other has them.
func (r Resources) Or(other Resources) Resources {
	return Resources{
		CPUs: cmp.Or(r.CPUs, other.CPUs), MemoryMiB: cmp.Or(r.MemoryMiB, other.MemoryMiB),
		Processes: cmp.Or(r.Processes, other.Processes), OpenFiles: cmp.Or(r.OpenFiles, other.OpenFiles),
		DiskMiB: cmp.Or(r.DiskMiB, other.DiskMiB), Inodes: cmp.Or(r.Inodes, other.Inodes),
	}
}

// Without returns r without the limits that have one of the names.
func (r Resources) Without(names ...string) Resources {
	for _, name := range names {
		switch name {
		case LimitCPUs:
			r.CPUs = 0
		case LimitMemory:
			r.MemoryMiB = 0
		case LimitProcesses:
			r.Processes = 0
		case LimitOpenFiles:
			r.OpenFiles = 0
		case LimitDisk:
			r.DiskMiB = 0
		case LimitInodes:
			r.Inodes = 0
		}
	}
	return r
}

// LimitError says that a driver can't hold a limit that must be held, and what would change that.
type LimitError struct {
	// Driver is the driver's name.
	Driver string
	// Limit is the limit's name: "memory".
	Limit string
	// Err is what is missing, or what failed.
	Err error
	// Remedies are things that the user can do, each a whole phrase, the best first.
	Remedies []string
}

// NewLimitError returns a LimitError with what always helps as the last remedy.
func NewLimitError(driver, limit string, err error, remedies ...string) *LimitError {
	return &LimitError{Driver: driver, Limit: limit, Err: err, Remedies: append(slices.Clone(remedies), "ask with sbx.LimitIfPossible, which goes on without the limit")}
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the %s driver can't limit %s here: %v%s", e.Driver, e.Limit, e.Err, toGoOn(e.Remedies))
}

func (e *LimitError) Unwrap() error { return e.Err }
