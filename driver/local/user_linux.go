package local

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Who sandboxes are outside: for root, each a user and a group that nothing else uses; else the caller.

type user struct{ uid, gid int }

// Sandboxes' own ids, of users and groups, are in a range that is given to nobody by systemd's and the distributions' conventions.
const firstID, lastID = 0x7000_0000, 0x7ffd_ffff

// errRoot is why the machine's root needs ids to give: the kernel does not limit the processes of its own.
var errRoot = errors.New("root may give no user ids to sandboxes, and the kernel limits no processes that are root's")

// launcherAttributes are those of a launcher of this process, and tell whether it can give each sandbox ids of its own.
func launcherAttributes() (attributes *syscall.SysProcAttr, ownIDs bool, err error) {
	self, flags := user{os.Geteuid(), os.Getegid()}, uintptr(syscall.CLONE_NEWNS)
	root, administers := self.uid == 0, has(unix.CAP_SYS_ADMIN)
	ownIDs = root && has(unix.CAP_SETUID) && has(unix.CAP_SETGID) && (administers || has(unix.CAP_SETFCAP)) &&
		outsideOf("uid", firstID, lastID) >= 0 && outsideOf("gid", firstID, lastID) >= 0
	if !ownIDs && outsideOf("uid", self.uid, self.uid) == 0 { // whatever its name is in this namespace
		return nil, false, errRoot
	}
	// The launcher needs mounts of its own; an ordinary user, and root in most containers, may have those in a user namespace only.
	if root && administers {
		return inNamespaces(flags, self, self), ownIDs, nil
	}
	attributes = inNamespaces(flags|syscall.CLONE_NEWUSER, self, self)
	if ownIDs {
		ids := syscall.SysProcIDMap{ContainerID: firstID, HostID: firstID, Size: lastID - firstID + 1}
		attributes.UidMappings = append(attributes.UidMappings, ids)
		attributes.GidMappings = append(attributes.GidMappings, ids)
		attributes.GidMappingsEnableSetgroups = true
	}
	return attributes, ownIDs, nil
}

// has tells whether this process has a capability.
func has(capability int) bool {
	var data [2]unix.CapUserData // of 32 capabilities each
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return err == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// outsideOf is what the first of a range of ids, uid or gid, is outside of this process's user namespace, -1 if the namespace has not all
// of them.
func outsideOf(kind string, first, last int) int {
	text, err := os.ReadFile("/proc/self/" + kind + "_map")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, length int
		if _, err := fmt.Sscan(line, &inside, &outside, &length); err == nil && inside <= first && last < inside+length {
			return outside + first - inside
		}
	}
	return -1
}

// inNamespaces are the attributes of a process born in new namespaces. If a user namespace is among them, the user
// outside is the user inside, and has all capabilities over the namespaces across the execution of the program.
func inNamespaces(flags uintptr, inside, outside user) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER == 0 {
		return attributes
	}
	attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside.uid, HostID: outside.uid, Size: 1}}
	attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: inside.gid, HostID: outside.gid, Size: 1}}
	for capability := range uintptr(unix.CAP_LAST_CAP + 1) {
		attributes.AmbientCaps = append(attributes.AmbientCaps, capability)
	}
	return attributes
}
