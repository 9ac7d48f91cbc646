package setup

import (
	"maps"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// A sandbox's processes are in a Landlock domain as well, where the kernel has it. It holds again, by means of its own,
// what read-only mounts, the filter and the namespaces hold: writes only where a worker has business, no changes of
// mounts, no abstract sockets and signals beyond the sandbox. It alone holds commands to devices other than
// terminals. go-landlock is not used:
// it restricts all threads of a process, and what is restricted here is the one that starts the worker.

// writes are the rights to change something in a file system. Reading is left alone: what is not to be read isn't there.
const writes = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
	unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
	unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
	unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM

// writable are the places at and below which a worker may write, and how. /dev and /proc have files that exist already.
var writable = map[string]uint64{
	"/tmp": writes, WorkFolder: writes, "/dev/shm": writes,
	"/dev":  unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE,
	"/proc": unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE,
	// Terminals are the sandbox's own, and what works with them gives them commands.
	Terminals:  unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
	"/dev/tty": unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
}

// LandlockDevices is the version from which on commands to devices can be refused.
const LandlockDevices = 5

// LandlockVersion is what the kernel knows of Landlock, 0 for nothing.
func LandlockVersion() int {
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 { // not in this kernel, not enabled when it was started, or refused by a filter of whoever started this program
		return 0
	}
	return int(version)
}

// landlock puts the calling thread, and what it starts, into a domain in which only the paths, with what is below, can be changed.
func landlock(version int, paths map[string]uint64) error {
	if version < 2 {
		return nil // version 1 would forbid to rename from one folder into another
	}
	handled, scoped := uint64(writes), uint64(0)
	if version < 3 {
		handled &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= LandlockDevices {
		handled |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled, Scoped: scoped}
	ruleset, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer unix.Close(int(ruleset))
	for path, allowed := range paths {
		if err := allowBelow(int(ruleset), path, allowed&handled); err != nil {
			return err
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

func allowBelow(ruleset int, path string, allowed uint64) error {
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(place)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: allowed, Parent_fd: int32(place)}
	_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}

// writableBelow is what Landlock allows in a sandbox with mounts.
func writableBelow(mounts []control.Placed) map[string]uint64 {
	paths := maps.Clone(writable)
	for _, m := range mounts {
		switch {
		case m.Writable && m.Folder:
			paths[m.Target] = writes
		case m.Writable:
			paths[m.Target] = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
		}
	}
	return paths
}
