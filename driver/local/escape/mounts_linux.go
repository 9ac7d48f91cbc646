package escape

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mounts are attempts at what the root is made of.
var mounts = []Attempt{
	{"mount", func(t Targets) error { return unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, "") }},
	{"bind mount", func(t Targets) error { return unix.Mount("/usr", os.TempDir(), "", unix.MS_BIND, "") }},
	{"new mount API", func(Targets) error { return errnoOf(unix.SYS_FSOPEN, bytesOf("tmpfs\x00"), 0) }},
	{"unmount", func(t Targets) error { return unix.Unmount(t.Mount, unix.MNT_DETACH) }},
	{"make a mount writable", func(t Targets) error { return unix.Mount("", t.Mount, "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
	{"make a mount writable by mount_setattr", func(t Targets) error {
		return unix.MountSetattr(unix.AT_FDCWD, t.Mount, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}},
	{"chroot", func(Targets) error { return unix.Chroot("/") }},
	{"pivot_root", func(t Targets) error { return reachable(unix.PivotRoot(t.Mount, t.Mount), unix.EBUSY, unix.EINVAL) }},
	{"write to the root", func(t Targets) error { return anyCreatable("/", "/etc", "/usr", "/usr/bin", "/dev", "/.sbx") }},
	{"change the own program", func(Targets) error { return touch("/proc/self/exe") }},
	{"change init's program", func(t Targets) error { return touch(fmt.Sprintf("/proc/%d/exe", t.Init)) }},
	{"reach the host through init's root", func(t Targets) error {
		return contains(fmt.Sprintf("/proc/%d/root%s", t.Init, t.HostFile), t.Secret)
	}},
	{"mount cgroup2", func(Targets) error { return unix.Mount("cgroup2", os.TempDir(), "cgroup2", 0, "") }},
	{"mount cgroup", func(Targets) error { return unix.Mount("cgroup", os.TempDir(), "cgroup", 0, "freezer") }},
	{"mount another proc", func(Targets) error { return unix.Mount("proc", os.TempDir(), "proc", 0, "") }},
	{"mount sysfs", func(Targets) error { return unix.Mount("sysfs", os.TempDir(), "sysfs", 0, "") }},
	{"mount devpts", func(Targets) error { return unix.Mount("devpts", os.TempDir(), "devpts", 0, "") }},
	{"open_tree", func(Targets) error {
		_, err := unix.OpenTree(unix.AT_FDCWD, "/usr", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	}},
	{"move_mount", func(Targets) error {
		return reachable(unix.MoveMount(-1, "", -1, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), unix.EBADF)
	}},
	{"fsmount", func(Targets) error { return reachable(errnoOf(unix.SYS_FSMOUNT, ^uintptr(0), 0, 0), unix.EBADF) }},
	{"fspick", func(Targets) error { return errnoOf(unix.SYS_FSPICK, ^uintptr(99), bytesOf("/dev/shm\x00"), 0) }}, // AT_FDCWD
}
