package escape

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Attempt is one way out. Do returns nil if it worked ("open"), and otherwise what stopped it ("held"). It may leave
// its process unusable, so each attempt is made by a process of its own.
type Attempt struct {
	Name string
	Do   func(Targets) error
}

var errNotThere = errors.New("nothing there")

// Attempts are all that this package knows.
var Attempts = []Attempt{
	{"read a host file", func(t Targets) error { return contains(t.HostFile, t.Secret) }},
	{"read the shadow file", func(Targets) error { return readable("/etc/shadow") }},
	{"list home folders", func(Targets) error { return firstEntry("/home/*", "/root/.[a-z]*") }},
	{"write into a host folder", func(t Targets) error { return creatable(t.HostFolder) }},
	{"find the secret in the own environment", func(t Targets) error {
		for _, entry := range os.Environ() {
			if strings.HasPrefix(entry, "HOST_SECRET=") {
				return nil
			}
		}
		return errNotThere
	}},
	{"find the secret in init's environment", func(t Targets) error { return contains(fmt.Sprintf("/proc/%d/environ", t.Init), t.Secret) }},
	{"find the secret in any environment", func(t Targets) error { return anyProcess("environ", "HOST_SECRET="+t.Secret) }},
	{"use an inherited descriptor", func(t Targets) error {
		links, _ := filepath.Glob("/proc/self/fd/*")
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == t.HostFile {
				return nil
			}
		}
		return errNotThere
	}},
	{"see a host process", func(t Targets) error { return anyProcess("cmdline", t.HostMarker) }},
	{"signal a host process", func(t Targets) error { return unix.Kill(t.HostPID, 0) }},
	{"signal through a pidfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.HostPID, 0)
		if err != nil {
			return err
		}
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	}},
	{"ptrace", func(t Targets) error { return errnoOf(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.HostPID), 0, 0) }},
	{"process_vm_readv", func(t Targets) error {
		var to [1]byte
		local := unix.Iovec{Base: &to[0], Len: 1}
		remote := unix.RemoteIovec{Base: t.HostAddress, Len: 1}
		_, err := unix.ProcessVMReadv(t.HostPID, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		return err
	}},
	{"read a process's memory file", func(t Targets) error {
		file, err := os.Open(fmt.Sprintf("/proc/%d/mem", t.Init))
		if err != nil {
			return err
		}
		_, err = file.ReadAt(make([]byte, 1), int64(t.HostAddress))
		return err
	}},
	{"pidfd_getfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.Init, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
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
	{"connect to the host's loopback", func(t Targets) error { return dial("tcp", t.TCP) }},
	{"connect to an abstract socket", func(t Targets) error { return dial("unix", t.Abstract) }},
	{"connect to a socket's path", func(t Targets) error { return dial("unix", t.Socket) }},
	{"see a network beyond loopback", func(Targets) error {
		content, err := os.ReadFile("/proc/net/dev")
		if err != nil {
			return err
		}
		if lines := bytes.Count(content, []byte(":")); lines > 1 {
			return nil
		}
		return errNotThere
	}},
	{"raw socket", func(Targets) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
	{"packet socket", func(Targets) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"vsock", func(Targets) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"vsock with high bits", func(Targets) error { return socket(unix.AF_VSOCK|1<<32, unix.SOCK_STREAM, 0) }},
	{"AF_ALG", func(Targets) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
	{"netlink beyond routing", func(Targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT) }},
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
	{"TIOCSTI", func(Targets) error { return pushInput(unix.TIOCSTI) }},
	{"TIOCSTI with high bits", func(Targets) error { return pushInput(unix.TIOCSTI | 1<<32) }},
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
		if limit.Max == 0 {
			return errNotThere
		}
		return nil
	}},
	{"read a neighbour's file", func(t Targets) error { return contains(t.NeighbourFile, t.Secret) }},
	{"see a neighbour's process", func(t Targets) error { return anyProcess("environ", t.NeighbourMarker+"\x00") }},
	{"connect to a neighbour", func(t Targets) error { return dial("unix", t.NeighbourAbstract) }},
}

func contains(path, text string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(content, []byte(text)) {
		return errNotThere
	}
	return nil
}

func anyProcess(name, text string) error {
	paths, _ := filepath.Glob("/proc/[0-9]*/" + name)
	for _, path := range paths {
		if strings.HasPrefix(path, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		if contains(path, text) == nil {
			return nil
		}
	}
	return errNotThere
}

func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

func anyReadable(paths ...string) error {
	var errs []error
	for _, path := range paths {
		err := readable(path)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func nonEmpty(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := file.Read(make([]byte, 1))
	if n == 0 {
		return errNotThere
	}
	return err
}

func firstEntry(patterns ...string) error {
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return nil
		}
	}
	return errNotThere
}

func writable(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func creatable(folder string) error {
	file, err := os.CreateTemp(folder, "escape")
	if err != nil {
		return err
	}
	_ = file.Close()
	return os.Remove(file.Name())
}

func anyCreatable(folders ...string) error {
	var errs []error
	for _, folder := range folders {
		err := creatable(folder)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// touch changes a file without changing what it holds: a running program can't be opened for writing anywhere.
func touch(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}

func dial(network, address string) error {
	conn, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// reachable takes an error that only the call itself makes for a success: the call was not refused.
func reachable(err error, own ...error) error {
	for _, e := range own {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func socket(domain, kind, protocol uintptr) error {
	return errnoOf(unix.SYS_SOCKET, domain, kind|unix.SOCK_CLOEXEC, protocol)
}

// errnoOf makes a system call with up to six arguments.
func errnoOf(number uintptr, arguments ...uintptr) error {
	var a [6]uintptr
	copy(a[:], arguments)
	if _, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// bytesOf is the address of a constant, which has to end with a zero byte.
func bytesOf(text string) uintptr {
	return uintptr(unsafe.Pointer(unsafe.StringData(text)))
}

// pushInput puts a character into a terminal's input.
func pushInput(request uintptr) error {
	terminal := uintptr(0)
	if master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		defer master.Close()
		fd := int(master.Fd())
		number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		defer slave.Close()
		terminal = slave.Fd()
	}
	character := byte('x')
	return errnoOf(unix.SYS_IOCTL, terminal, request, uintptr(unsafe.Pointer(&character)))
}
