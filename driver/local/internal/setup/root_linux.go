package setup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// Where things are in a sandbox, but for StageRoot, which is the launcher's: the root of every sandbox.
const (
	StageRoot   = "/sandbox"
	AgentPath   = "/.sbx/agent"  // the program that this session belongs to
	WorkerPath  = "/.sbx/worker" // the session's worker
	EmptyFolder = "/.sbx/empty"  // covers folders that a sandbox must not see
	WorkFolder  = "/work"
	Terminals   = "/dev/pts" // the sandbox's own pseudo terminals
	HostName    = "sandbox"
	InnerID     = 1000 // user and group inside
)

// ReadOnly are the attributes of a mount that is for reading.
const ReadOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// A sandbox without mounts has the stage's root as it is. One with mounts has a root of its own: an empty file system that shows the
// entries of the stage's, each mounted, and has places for the mounts among them.

// Where the launcher has what roots with mounts are made of.
const (
	MountsFolder = "/mounts" // mounts by their numbers
	OwnRoot      = "/own"    // where the root of a sandbox with mounts comes
)

// MountPath is where the launcher has a mount.
func MountPath(number int) string { return MountsFolder + "/" + strconv.Itoa(number) }

// OwnRootSteps make that root. The mounts' places are in it, but not yet the mounts.
func OwnRootSteps(mounts []control.Placed) []Step {
	return []Step{
		Tmpfs(OwnRoot, 0o755, 1, 4096),
		{"copy the sandbox root", func() error { return mirror("", mounts) }},
		{"make places for mounts", func() error { return makePoints(OwnRoot, mounts) }},
	}
}

// mirror shows what the stage's root has in a folder, given by its path in the root, in the own root. Folders that places are in are made anew.
func mirror(folder string, mounts []control.Placed) error {
	entries, err := os.ReadDir(StageRoot + folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := folder + "/" + entry.Name()
		target, above := OwnRoot+path, false
		for _, m := range mounts {
			above = above || strings.HasPrefix(m.Target, path+"/")
		}
		switch {
		case isTarget(path, mounts):
		case above && !entry.IsDir():
			return fmt.Errorf("a mount's target is below %s, which is no folder in the sandbox: choose another target", path)
		case above:
			err = os.Mkdir(target, 0o755)
			if err == nil {
				err = mirror(path, mounts)
			}
		case entry.Type()&os.ModeSymlink != 0:
			var link string
			if link, err = os.Readlink(StageRoot + path); err == nil {
				err = os.Symlink(link, target)
			}
		default:
			if err = MakePoint(target, entry.IsDir()); err == nil {
				err = unix.Mount(StageRoot+path, target, "", unix.MS_BIND|unix.MS_REC, "")
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func isTarget(path string, mounts []control.Placed) bool {
	for _, m := range mounts {
		if m.Target == path {
			return true
		}
	}
	return false
}

// makePoints makes the places that aren't there.
func makePoints(root string, mounts []control.Placed) error {
	for _, m := range mounts {
		if _, err := os.Lstat(root + m.Target); err == nil {
			continue
		}
		if err := MakePoint(root+m.Target, m.Folder); err != nil {
			return err
		}
	}
	return nil
}

// MakePoint makes an empty folder or file to mount on, with the folders above it.
func MakePoint(target string, folder bool) error {
	if folder {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o644)
}

// mountSteps mount what is the sandbox's own, in the current folder, which is its root, and end changes of that root.
func mountSteps(mounts []control.Placed) []Step {
	steps := []Step{{"make places for mounts", func() error { return makePoints(".", mounts) }}} // in what has been mounted since
	for _, m := range mounts {
		steps = append(steps, Bind(MountPath(m.Number), m.Target[1:]))
	}
	return append(steps, Step{"make the sandbox root read-only", func() error { return MakeReadOnly(".") }})
}

// MakeReadOnly makes the mount at path read-only, and the file system behind it.
func MakeReadOnly(path string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return err
	}
	return unix.Mount("", path, "", unix.MS_REMOUNT|flags, "")
}

// hiddenInProc is what a sandbox has no business with in its /proc: it is the host's, and namespaces don't cover it.
var hiddenInProc = []string{
	"acpi", "asound", "bus", "config.gz", "driver", "fs", "interrupts", "irq", "kallsyms", "kcore", "key-users", "keys",
	"kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "modules", "sched_debug", "scsi", "slabinfo",
	"sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo", "iomem", "ioports", "mtrr", "pressure",
	"buddyinfo", "cmdline", "diskstats", "partitions", "zoneinfo",
}

// rootSteps turn the copy of the launcher's mounts into this sandbox's own root.
func rootSteps(l control.Limits, mounts []control.Placed) []Step {
	steps := []Step{
		// Not at birth: init may have been put into its group since.
		{"make a cgroup namespace", func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{"return to the launcher's root", func() error { return unix.Chroot(".") }},
	}
	root := StageRoot
	if len(mounts) > 0 {
		root = OwnRoot
		steps = append(steps, OwnRootSteps(mounts)...)
	} else {
		// What was copied from the launcher is locked in place, and a root must not be.
		steps = append(steps, Bind(StageRoot, StageRoot))
	}
	steps = append(steps,
		Step{"change to " + root, func() error { return os.Chdir(root) }},
		// hidepid: nothing is to be seen of the agent, which is not dumpable.
		Mount("proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "hidepid=2"),
		Tmpfs("tmp", 0o1777, l.DiskMiB, l.Inodes),
		Tmpfs(WorkFolder[1:], 0o700, l.DiskMiB, l.Inodes),
		Tmpfs("dev/shm", 0o1777, min(64, l.DiskMiB), min(1<<10, l.Inodes)),
		// Whoever opens a terminal owns it. The kernel has 4096 for the whole machine, of which it keeps 1024 for the host's own.
		Mount("devpts", Terminals[1:], unix.MS_NOSUID|unix.MS_NOEXEC, fmt.Sprintf("newinstance,ptmxmode=0666,mode=0600,max=%d", maxTerminals)),
		Step{"forbid namespaces", forbidNamespaces},
		Bind("proc/sys", "proc/sys"),
		Restrict("proc/sys", ReadOnly|unix.MOUNT_ATTR_NOEXEC),
		Step{"hide parts of /proc", hideProc},
	)
	if len(mounts) > 0 {
		steps = append(steps, mountSteps(mounts)...)
	}
	steps = append(steps, EnterRoot(".")...)
	return append(steps,
		Step{"set host name", func() error { return unix.Sethostname([]byte(HostName)) }},
		Step{"bring up loopback", loopbackUp},
	)
}

// forbidNamespaces allows no more of what the kernel counts for this user namespace: namespaces of every kind, and what
// watches files, since files below /usr are the host's, and their use tells what the host runs.
func forbidNamespaces() error {
	for _, name := range []string{"user_namespaces", "mnt_namespaces", "pid_namespaces", "net_namespaces", "ipc_namespaces", "uts_namespaces",
		"cgroup_namespaces", "time_namespaces", "inotify_instances", "fanotify_groups"} {
		err := os.WriteFile("proc/sys/user/max_"+name, []byte("0"), 0)
		if errors.Is(err, os.ErrNotExist) && name != "user_namespaces" {
			continue // not in this kernel
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxTerminals is how many pseudo terminals a sandbox has at a time.
const maxTerminals = 128

func hideProc() error {
	for _, name := range hiddenInProc {
		path := "proc/" + name
		info, err := os.Stat(path)
		if err != nil {
			continue // not in this kernel
		}
		cover := "dev/null"
		if info.IsDir() {
			cover = EmptyFolder[1:]
		}
		if err := unix.Mount(cover, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
