package setup

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// An Rlimit is the most of a resource that a process gets.
type Rlimit struct {
	Name     string
	Resource int
	Max      int
}

// Step sets the limit.
func (r Rlimit) Step() Step {
	return Step{"limit " + r.Name, func() error {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(r.Resource, &now); err != nil {
			return err
		}
		most := min(now.Max, uint64(r.Max))
		return syscall.Setrlimit(r.Resource, &syscall.Rlimit{Cur: most, Max: most})
	}}
}

// CoreDumps allows none: with a limit of 0 the kernel would still start the host's handler, as root, if its core pattern names one.
var CoreDumps = Rlimit{"core dumps", unix.RLIMIT_CORE, 1}

// rlimits are the most that a sandbox's processes get; what the caller has less of stays as it is.
func rlimits(l control.Limits) []Rlimit {
	return []Rlimit{
		CoreDumps,
		{"open files", unix.RLIMIT_NOFILE, l.OpenFiles},
		{"processes", unix.RLIMIT_NPROC, l.Processes}, // threads count; counted for this user namespace alone
		{"locked memory", unix.RLIMIT_MEMLOCK, 8 << 20},
		{"queued signals", unix.RLIMIT_SIGPENDING, 4096},
		{"message queues", unix.RLIMIT_MSGQUEUE, 800 << 10},
	}
}

// privilegeSteps leave this process, and what this thread starts, without any privilege. Where other threads can't give up theirs, since the program calls C code whose
// threads Go doesn't know, kept becomes true; those run nothing but the Go runtime, behind the filter. No step undoes or needs a later one.
func privilegeSteps(p control.Preparation, kept *bool) []Step {
	var steps []Step
	for _, limit := range rlimits(p.Limits) {
		steps = append(steps, limit.Step())
	}
	return append(steps,
		Step{"set file mode mask", func() error { unix.Umask(0o022); return nil }},
		Step{"join a new session keyring", func() error {
			// Without a name: a named one that exists already would be joined. Without keyrings, or with a container's
			// filter that forbids them, there is nothing to leave behind.
			_, _, _ = unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
			return nil
		}},
		// Until the worker executes, nothing of this process can be read or traced by it.
		Step{"become undumpable", func() error { return prctl(unix.PR_SET_DUMPABLE, 0) }},
		Step{"lock securebits", func() error { return prctl(unix.PR_SET_SECUREBITS, lockedSecurebits) }},
		Step{"empty the bounding set", func() error {
			for capability := range uintptr(64) {
				if err := prctl(unix.PR_CAPBSET_DROP, capability); errors.Is(err, unix.EINVAL) {
					return nil // the kernel knows no more
				} else if err != nil {
					return err
				}
			}
			return nil
		}},
		Step{"clear ambient capabilities", func() error { return prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL) }},
		Step{"drop capabilities", func() error {
			var none [2]unix.CapUserData
			return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		}},
		Step{"drop other threads' capabilities", func() (err error) {
			*kept, err = dropOthers()
			return err
		}},
		Step{"set no_new_privs", func() error { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
		Step{"enter a Landlock domain", func() error { return landlock(LandlockVersion(), writableBelow(p.Mounts)) }},
		Step{"filter system calls", func() error {
			filter, err := UnpackFilter(p.Filter)
			if err != nil {
				return err
			}
			return FilterCalls(filter, unix.SECCOMP_FILTER_FLAG_TSYNC) // which sets no_new_privs for all threads, too
		}},
	)
}

// dropOthers takes the capabilities of all threads that the Go runtime knows, or reports that there may be others.
func dropOthers() (kept bool, err error) {
	// Go answers ENOTSUP in a program with cgo. In one that calls C without it, as by older versions of purego, it panics, before it has done anything.
	defer func() {
		if recover() != nil {
			kept, err = true, nil
		}
	}()
	var none [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	switch errno {
	case 0:
		return false, nil
	case unix.ENOTSUP:
		return true, nil
	}
	return false, errno
}

// lockedSecurebits: no privileges by user id 0, none kept or raised when ids change, for good.
const lockedSecurebits = 1<<0 | 1<<1 | // SECBIT_NOROOT
	1<<2 | 1<<3 | // SECBIT_NO_SETUID_FIXUP
	1<<5 | // SECBIT_KEEP_CAPS_LOCKED
	1<<6 | 1<<7 // SECBIT_NO_CAP_AMBIENT_RAISE

// prctl acts on the calling thread.
func prctl(option int, argument uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, uintptr(option), argument, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// FilterCalls puts the calling thread, and what it starts, under the filter; with unix.SECCOMP_FILTER_FLAG_TSYNC all threads of the process.
func FilterCalls(filter []unix.SockFilter, flags uintptr) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has another filter", thread)
	}
	return nil
}

// PackFilter returns the bytes of a filter's instructions, which pass through a message faster than these would.
func PackFilter(filter []unix.SockFilter) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&filter[0])), len(filter)*unix.SizeofSockFilter)
}

// UnpackFilter is the opposite of [PackFilter].
func UnpackFilter(packed []byte) ([]unix.SockFilter, error) {
	if len(packed) == 0 || len(packed)%unix.SizeofSockFilter != 0 {
		return nil, fmt.Errorf("a filter of system calls of %d bytes", len(packed))
	}
	filter := make([]unix.SockFilter, len(packed)/unix.SizeofSockFilter)
	copy(PackFilter(filter), packed)
	return filter, nil
}
