package escape

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel are attempts at keys, at what /proc and /sys show, at privileges, namespaces, and at system calls for administrators.
var kernel = []Attempt{
	{"keyctl", func(Targets) error { return errnoOf(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 1) }},
	{"add_key", func(Targets) error {
		return errnoOf(unix.SYS_ADD_KEY, bytesOf("user\x00"), bytesOf("sbx\x00"), bytesOf("x\x00"), 1, ^uintptr(1)) // the process's keyring
	}},
	{"write to /proc/sys", func(Targets) error { return writable("/proc/sys/kernel/hostname") }},
	{"write the core pattern", func(Targets) error { return writable("/proc/sys/kernel/core_pattern") }},
	{"write the namespace limit", func(Targets) error { return writable("/proc/sys/user/max_user_namespaces") }},
	{"sysrq", func(Targets) error { return writable("/proc/sysrq-trigger") }},
	{"read kernel memory", func(Targets) error { return nonEmpty("/proc/kcore") }},
	{"read kernel symbols", func(Targets) error { return nonEmpty("/proc/kallsyms") }},
	{"read /proc/keys", func(Targets) error { return nonEmpty("/proc/keys") }},
	{"read the timer list", func(Targets) error { return nonEmpty("/proc/timer_list") }},
	{"read the kernel log", func(Targets) error {
		_, err := unix.Klogctl(3, make([]byte, 64)) // SYSLOG_ACTION_READ_ALL
		return err
	}},
	{"list /sys", func(Targets) error { return firstEntry("/sys/*") }},
	{"list control groups", func(Targets) error { return firstEntry("/sys/fs/cgroup/*") }},
	{"open a device of the host", func(Targets) error { return anyReadable("/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/sda") }},
	{"mknod", func(Targets) error {
		path := filepath.Join(os.TempDir(), "node"+strconv.Itoa(os.Getpid()))
		defer func() { _ = os.Remove(path) }()
		return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11)))
	}},
	{"setuid(0)", func(Targets) error { return errnoOf(unix.SYS_SETUID, 0) }},
	{"setgroups", func(Targets) error { return errnoOf(unix.SYS_SETGROUPS, 0, 0) }},
	{"have capabilities", func(Targets) error {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if strings.HasPrefix(name, "Cap") && strings.Trim(value, "0") != "" {
				return nil
			}
		}
		return errNotThere
	}},
	{"gain privileges by execution", func(Targets) error {
		if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || v == 1 {
			return errors.New("no_new_privs is set")
		}
		return nil
	}},
	{"unshare a user namespace", func(Targets) error {
		// A program with threads gets EINVAL where it is not refused.
		return reachable(errnoOf(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), unix.EINVAL)
	}},
	{"unshare a mount namespace", func(Targets) error { return errnoOf(unix.SYS_UNSHARE, unix.CLONE_NEWNS) }},
	{"clone a user namespace", func(Targets) error { return cloneUser() }},
	{"clone3", func(Targets) error { return reachable(errnoOf(435, 0, 0), unix.EINVAL, unix.EFAULT) }},
	{"setns", func(t Targets) error {
		fd, err := unix.Open("/proc/self/ns/uts", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	}},
	{"set the host name", func(Targets) error {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		return unix.Sethostname([]byte(name))
	}},
	{"io_uring", func(Targets) error {
		var params [120]byte
		return errnoOf(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	}},
	{"bpf", func(Targets) error {
		attr := [5]uint32{2, 4, 4, 1, 0} // an array map of one element
		return errnoOf(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"userfaultfd", func(Targets) error { return errnoOf(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) }},
	{"perf_event_open", func(Targets) error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	}},
	{"open_by_handle_at", func(Targets) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, os.TempDir(), 0)
		if err != nil {
			return err
		}
		folder, err := unix.Open(os.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		_, err = unix.OpenByHandleAt(folder, handle, unix.O_RDONLY)
		return err
	}},
	{"kexec", func(Targets) error { return reachable(errnoOf(unix.SYS_KEXEC_LOAD, 0, 0, 0, 1<<14), unix.EINVAL) }},
	{"load a module", func(Targets) error {
		return reachable(errnoOf(unix.SYS_INIT_MODULE, 0, 0, 0), unix.ENOEXEC, unix.EFAULT)
	}},
	{"swapon", func(Targets) error { return reachable(errnoOf(unix.SYS_SWAPON, 0, 0), unix.EFAULT, unix.ENOENT) }},
	{"quotactl", func(Targets) error {
		return reachable(errnoOf(unix.SYS_QUOTACTL, 0, 0, 0, 0), unix.ENODEV, unix.EINVAL)
	}},
	{"raise the priority", func(Targets) error { return errnoOf(unix.SYS_SETPRIORITY, 0, 0, ^uintptr(4)) }},
	{"find host paths in mountinfo", func(t Targets) error { return contains("/proc/self/mountinfo", t.HostPath) }},
	{"write core dumps", func(Targets) error {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
			return err
		}
		if limit.Max <= 1 { // of which the kernel makes none
			return errNotThere
		}
		return nil
	}},
	// With any other limit than 1, a handler of the host's gets what crashes.
	{"change the limit of core dumps", func(Targets) error {
		if unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) == nil {
			return nil
		}
		return errnoOf(unix.SYS_SETRLIMIT, unix.RLIMIT_CORE, uintptr(unsafe.Pointer(&unix.Rlimit{})))
	}},
	{"find a key", func(Targets) error {
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_PROCESS_KEYRING, "user", keyName, 0)
		return err
	}},
	{"request_key", func(Targets) error {
		return errnoOf(unix.SYS_REQUEST_KEY, bytesOf("user\x00"), bytesOf(keyName+"\x00"), 0, 0)
	}},
	{"write to anything in /proc/sys", func(Targets) error { return anyWritable("/proc/sys") }},
	{"write to anything in /proc", func(Targets) error { return anyWritable("/proc") }},
	{"read the boot parameters", func(Targets) error { return nonEmpty("/proc/cmdline") }},
	{"list the host's disks", func(Targets) error { return nonEmpty("/proc/diskstats") }},
	{"read where memory is free", func(Targets) error { return nonEmpty("/proc/buddyinfo") }},
	{"see the own control group", func(Targets) error {
		content, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(content)) {
			if !strings.HasSuffix(line, ":/\n") {
				return nil
			}
		}
		return errNotThere
	}},
	{"give a device commands", func(Targets) error {
		fd, err := unix.Open("/dev/random", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.IoctlGetInt(fd, unix.RNDGETENTCNT)
		return err
	}},
	{"setgid(0)", func(Targets) error { return errnoOf(unix.SYS_SETGID, 0) }},
	{"setresuid", func(Targets) error { return errnoOf(unix.SYS_SETRESUID, 0, 0, 0) }},
	{"setresgid", func(Targets) error { return errnoOf(unix.SYS_SETRESGID, 0, 0, 0) }},
	{"setreuid to another user", func(Targets) error { return errnoOf(unix.SYS_SETREUID, 65534, 65534) }},
	{"setfsuid", func(Targets) error { return fsID(unix.SYS_SETFSUID) }},
	{"setfsgid", func(Targets) error { return fsID(unix.SYS_SETFSGID) }},
	{"raise capabilities", func(Targets) error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{}
		data[0].Effective = 1 << unix.CAP_DAC_OVERRIDE
		data[0].Permitted = data[0].Effective
		return unix.Capset(&header, &data[0])
	}},
	{"change securebits", func(Targets) error { return errnoOf(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0) }},
	{"raise a limit", func(Targets) error { return raiseLimit() }},
	{"unshare a time namespace", func(Targets) error { return reachable(errnoOf(unix.SYS_UNSHARE, unix.CLONE_NEWTIME)) }},
	{"clone a user namespace by clone3", func(Targets) error { return clone3(unix.CLONE_NEWUSER) }},
	{"clone a mount namespace", func(Targets) error { return clone(unix.CLONE_NEWNS) }},
	{"clone a pid namespace by clone3", func(Targets) error { return clone3(unix.CLONE_NEWPID) }},
	{"enter process 1's namespaces", func(t Targets) error {
		last := errNotThere
		for _, name := range []string{"uts", "ipc", "net", "pid", "cgroup"} {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", t.Init, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Setns(fd, 0)
			}
			if err == nil {
				return nil
			}
			last = err
		}
		return last
	}},
	{"enter process 1's namespaces through a pidfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.Init, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWIPC)
	}},
	{"share the user namespace", sharesNamespace("user")},
	{"share the mount namespace", sharesNamespace("mnt")},
	{"share the pid namespace", sharesNamespace("pid")},
	{"share the network namespace", sharesNamespace("net")},
	{"share the ipc namespace", sharesNamespace("ipc")},
	{"share the uts namespace", sharesNamespace("uts")},
	{"share the cgroup namespace", sharesNamespace("cgroup")},
	{"share the time namespace", sharesNamespace("time")},
	{"set the domain name", func(Targets) error { return unix.Setdomainname([]byte("(none)")) }},
	// A terminal that is not a virtual console says ENOTTY: the call was not refused.
	{"TIOCLINUX", func(Targets) error { return reachable(consoleCommand(unix.TIOCLINUX), unix.ENOTTY) }},
	{"TIOCLINUX with high bits", func(Targets) error { return reachable(consoleCommand(unix.TIOCLINUX|1<<32), unix.ENOTTY) }},
	{"acct", func(Targets) error {
		return reachable(errnoOf(unix.SYS_ACCT, bytesOf("/dev/null/nothing\x00")), unix.ENOTDIR)
	}},
	{"reboot", func(Targets) error { return reachable(errnoOf(unix.SYS_REBOOT, 0, 0, 0, 0), unix.EINVAL) }}, // no magic numbers
	{"settimeofday", func(Targets) error { return errnoOf(unix.SYS_SETTIMEOFDAY, 0, 0) }},
	{"clock_settime", func(Targets) error {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			return err
		}
		return errnoOf(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&now)))
	}},
	{"adjtimex", func(Targets) error {
		var now unix.Timex
		if _, err := unix.Adjtimex(&now); err != nil {
			return err
		}
		now.Modes = unix.ADJ_TICK // to what it is
		_, err := unix.Adjtimex(&now)
		return err
	}},
	{"vhangup", func(Targets) error { return errnoOf(unix.SYS_VHANGUP) }},
	{"kexec_file_load", func(Targets) error {
		return reachable(errnoOf(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0), 0, 0, 0), unix.EBADF)
	}},
	{"load a module from a file", func(Targets) error { return reachable(errnoOf(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0), unix.EBADF) }},
	{"unload a module", func(Targets) error {
		return reachable(errnoOf(unix.SYS_DELETE_MODULE, bytesOf("none\x00"), 0), unix.ENOENT)
	}},
	{"swapoff", func(Targets) error { return reachable(errnoOf(unix.SYS_SWAPOFF, 0), unix.EFAULT) }},
	{"quotactl_fd", func(Targets) error { return reachable(errnoOf(unix.SYS_QUOTACTL_FD, ^uintptr(0), 0, 0, 0), unix.EBADF) }},
	{"io_uring_enter", func(Targets) error {
		return reachable(errnoOf(unix.SYS_IO_URING_ENTER, ^uintptr(0), 0, 0, 0), unix.EBADF)
	}},
	{"io_setup", func(Targets) error {
		var handle uintptr
		return errnoOf(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&handle)))
	}},
	{"executable by personality", func(Targets) error { return errnoOf(unix.SYS_PERSONALITY, 0x400000) }}, // READ_IMPLIES_EXEC
	{"memfd_secret", func(Targets) error { return errnoOf(unix.SYS_MEMFD_SECRET, 0) }},
	{"crash with a core dump", func(Targets) error { return dumpCore() }},
}

const keyName = "sbx-escape"

// anyWritable looks for a file that can be opened for writing. Of /proc it takes neither the processes nor what covers
// another file.
func anyWritable(root string) error {
	last := errNotThere
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := filepath.Base(path)
		switch {
		case err != nil:
			return nil
		case root == "/proc" && (path == "/proc/sys" || name[0] >= '0' && name[0] <= '9' && filepath.Dir(path) == root):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			last = err
			return nil
		}
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR {
			return unix.Close(fd) // a device covers it
		}
		_ = unix.Close(fd)
		last = nil
		return fs.SkipAll
	})
	if err != nil {
		return err
	}
	return last
}

// fsID takes the identity 0 for access to files. The call itself never fails: it returns what was before.
func fsID(number uintptr) error {
	runtime.LockOSThread()
	_, _, _ = unix.RawSyscall(number, 0, 0, 0)
	now, _, errno := unix.RawSyscall(number, ^uintptr(0), 0, 0)
	switch {
	case errno != 0:
		return errno
	case now != 0:
		return fmt.Errorf("it stays %d", now)
	}
	return nil
}

// raiseLimit raises the most that a limit may be set to.
func raiseLimit() error {
	last := errNotThere
	for _, resource := range []int{unix.RLIMIT_CORE, unix.RLIMIT_NPROC, unix.RLIMIT_MEMLOCK, unix.RLIMIT_MSGQUEUE, unix.RLIMIT_RTPRIO, unix.RLIMIT_NICE} {
		var limit unix.Rlimit
		if err := unix.Prlimit(0, resource, nil, &limit); err != nil {
			return err
		}
		if limit.Max == unix.RLIM_INFINITY {
			continue
		}
		limit.Max++
		if last = unix.Prlimit(0, resource, &limit, nil); last == nil {
			return nil
		}
	}
	return last
}

func sharesNamespace(name string) func(Targets) error {
	return func(t Targets) error {
		namespace, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return err
		}
		if namespace != t.Namespaces[name] {
			return errors.New("it is another")
		}
		return nil
	}
}

func consoleCommand(request uintptr) error {
	command := byte(6) // TIOCL_GETSHIFTSTATE
	return errnoOf(unix.SYS_IOCTL, 0, request, uintptr(unsafe.Pointer(&command)))
}

// dumpCore has a program crash.
func dumpCore() error {
	cmd := exec.Command("/bin/sh", "-c", "ulimit -c unlimited || ulimit -c 0; kill -ABRT $$")
	cmd.Dir = os.TempDir()
	_ = cmd.Run() // it always fails
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return fmt.Errorf("it did not crash: %v", cmd.ProcessState)
	}
	if !status.CoreDump() {
		return errNotThere
	}
	return nil
}
