package filter

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdictsOf runs a seccomp program.
func verdictsOf(t *testing.T, architecture string, shares bool) func(arch, number uint32, arguments ...uint64) uint32 {
	filter, err := Assemble(architecture, shares)
	require.NoError(t, err)
	require.Less(t, len(filter), 4096, "the kernel's limit")
	instructions := make([]bpf.Instruction, len(filter))
	for i, f := range filter {
		instructions[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble()
	}
	vm, err := bpf.NewVM(instructions)
	require.NoError(t, err)
	return func(arch, number uint32, arguments ...uint64) uint32 {
		// struct seccomp_data; the virtual machine reads big-endian words.
		data := make([]byte, 64)
		binary.BigEndian.PutUint32(data[0:], number)
		binary.BigEndian.PutUint32(data[4:], arch)
		for i, argument := range arguments {
			binary.BigEndian.PutUint32(data[16+8*i:], uint32(argument))
			binary.BigEndian.PutUint32(data[20+8*i:], uint32(argument>>32))
		}
		result, err := vm.Run(data)
		require.NoError(t, err)
		return uint32(result)
	}
}

const allowed = uint32(unix.SECCOMP_RET_ALLOW)

func failWith(errno unix.Errno) uint32 { return uint32(unix.SECCOMP_RET_ERRNO) | uint32(errno) }

// The filter is run here on made-up system calls, so that ones which this kernel lacks, and other architectures' ways
// in, are tried, too.
func TestFilter(t *testing.T) {
	for _, architecture := range Architectures() {
		t.Run(architecture, func(t *testing.T) { testFilter(t, architecture) })
	}
}

func testFilter(t *testing.T, architecture string) {
	verdict := verdictsOf(t, architecture, false)
	info, err := arch.GetInfo(architecture)
	require.NoError(t, err)
	const allow, high = allowed, uint64(7) << 32
	refuse := failWith
	for _, test := range []struct {
		name      string
		arguments []uint64
		want      uint32
	}{
		{"read", nil, allow},
		{"execve", nil, allow},
		{"futex", nil, allow},
		{"clone3", nil, refuse(unix.ENOSYS)},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, refuse(unix.EPERM)},
		{"clone", []uint64{high | unix.CLONE_NEWNS}, refuse(unix.EPERM)},
		{"socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, allow},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, 0}, allow},
		{"socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, allow},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_RAW, 0}, refuse(unix.EPERM)},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, refuse(unix.EPERM)},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, allow},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, refuse(unix.EPERM)},
		{"socketpair", []uint64{unix.AF_UNIX}, allow},
		{"socketpair", []uint64{unix.AF_TIPC}, refuse(unix.EPERM)},
		{"setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_REUSEADDR}, allow},
		{"setsockopt", []uint64{3, unix.IPPROTO_TCP, unix.SO_LINGER}, allow}, // that is TCP_CONGESTION
		{"setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_LINGER}, refuse(unix.EPERM)},
		{"sendto", []uint64{3, 0, 1, unix.MSG_NOSIGNAL}, allow},
		{"sendto", []uint64{3, 0, 1, unix.MSG_NOSIGNAL | unix.MSG_OOB}, refuse(unix.EPERM)},
		{"sendmsg", []uint64{3, 0, unix.MSG_DONTWAIT}, allow},
		{"sendmsg", []uint64{3, 0, unix.MSG_OOB}, refuse(unix.EPERM)},
		{"sendmmsg", []uint64{3, 0, 1, unix.MSG_DONTWAIT}, allow},
		{"sendmmsg", []uint64{3, 0, 1, unix.MSG_OOB}, refuse(unix.EPERM)},
		{"ioctl", []uint64{0, unix.TCGETS}, allow},
		{"ioctl", []uint64{0, unix.TIOCSTI}, refuse(unix.EPERM)},
		{"ioctl", []uint64{0, high | unix.TIOCSTI}, refuse(unix.EPERM)},
		{"ioctl", []uint64{0, unix.TIOCLINUX}, refuse(unix.EPERM)},
		{"ioctl", []uint64{0, unix.TIOCSETD}, refuse(unix.EPERM)},
		{"ioctl", []uint64{0, unix.TIOCSWINSZ}, allow},
		{"fcntl", []uint64{0, unix.F_SETLKW}, allow},
		{"fcntl", []uint64{0, unix.F_NOTIFY}, refuse(unix.EPERM)},
		{"fcntl", []uint64{0, unix.F_SETLEASE, unix.F_WRLCK}, refuse(unix.EPERM)},
		{"fadvise64", []uint64{0, 0, 0, unix.FADV_SEQUENTIAL}, allow},
		{"fadvise64", []uint64{0, 0, 0, unix.FADV_DONTNEED}, refuse(unix.EPERM)},
		{"preadv2", []uint64{0, 0, 0, 0, 0, unix.RWF_HIPRI}, allow},
		{"preadv2", []uint64{0, 0, 0, 0, 0, unix.RWF_HIPRI | unix.RWF_NOWAIT}, refuse(unix.EPERM)},
		{"preadv2", []uint64{0, 0, 0, 0, 0, unix.RWF_DONTCACHE}, refuse(unix.EPERM)},
		{"madvise", []uint64{0, 0, unix.MADV_DONTNEED}, allow},
		{"madvise", []uint64{0, 0, unix.MADV_PAGEOUT}, refuse(unix.EPERM)},
		{"mincore", nil, refuse(unix.ENOSYS)},
		{"mmap", []uint64{0, 0, 0, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}, allow},
		{"mmap", []uint64{0, 0, 0, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_HUGETLB}, refuse(unix.EPERM)},
		{"memfd_create", []uint64{0, unix.MFD_CLOEXEC}, allow},
		{"memfd_create", []uint64{0, unix.MFD_CLOEXEC | unix.MFD_HUGETLB}, refuse(unix.EPERM)},
		{"shmget", []uint64{0, 0, 0o600}, allow},
		{"shmget", []uint64{0, 0, 0o600 | shmHugeTLB}, refuse(unix.EPERM)},
		{"prlimit64", []uint64{0, unix.RLIMIT_CORE, 0, 0xc000}, allow},
		{"prlimit64", []uint64{0, unix.RLIMIT_CORE, 0xc000}, refuse(unix.EPERM)},
		{"prlimit64", []uint64{0, unix.RLIMIT_CORE, high}, refuse(unix.EPERM)},
		{"prlimit64", []uint64{0, high | unix.RLIMIT_CORE, 0xc000}, refuse(unix.EPERM)},
		{"prlimit64", []uint64{0, unix.RLIMIT_NOFILE, high | 0xc000}, allow},
		{"setrlimit", []uint64{unix.RLIMIT_CORE, 0xc000}, refuse(unix.EPERM)},
		{"setrlimit", []uint64{high | unix.RLIMIT_CORE, 0xc000}, refuse(unix.EPERM)},
		{"setrlimit", []uint64{unix.RLIMIT_NOFILE, 0xc000}, allow},
		{"io_setup", nil, refuse(unix.EPERM)},
		{"personality", []uint64{0xffffffff}, allow},
		{"personality", []uint64{0x400000}, refuse(unix.EPERM)},
		{"mount", nil, refuse(unix.EPERM)},
	} {
		number, ok := info.SyscallNames[test.name]
		require.True(t, ok, test.name)
		assert.Equal(t, test.want, verdict(uint32(info.ID), uint32(number), test.arguments...), "%s %#x", test.name, test.arguments)
	}
	// No value of an argument is ever taken for the number of a system call.
	for domain := range uint64(512) {
		switch domain {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
		default:
			number := uint32(info.SyscallNames["socket"])
			assert.Equal(t, failWith(unix.EPERM), verdict(uint32(info.ID), number, domain, unix.SOCK_STREAM, 0), "socket domain %d", domain)
		}
	}
	for _, name := range []string{"unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise", "cachestat",
		"umount2", "pivot_root", "chroot", "fsopen", "fsmount", "fsconfig", "fspick", "move_mount", "open_tree", "mount_setattr",
		"keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
		"io_uring_register", "open_by_handle_at", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
		"reboot", "swapon", "swapoff", "quotactl", "syslog", "acct", "settimeofday", "clock_settime", "sethostname", "setdomainname"} {
		number, ok := info.SyscallNames[name]
		require.True(t, ok, name)
		assert.Equal(t, failWith(unix.EPERM), verdict(uint32(info.ID), uint32(number)), name)
	}
	// The same numbers by way of int 0x80 and x32.
	assert.Equal(t, failWith(unix.EPERM), verdict(uint32(arch.I386.ID), 3))
	assert.Equal(t, failWith(unix.ENOSYS), verdict(uint32(info.ID), 0x40000000|1))
}

// A sandbox that can change folders of the host makes no file that others could run as its user.
func TestFilterOfSetIDs(t *testing.T) {
	for _, architecture := range Architectures() {
		t.Run(architecture, func(t *testing.T) { testFilterOfSetIDs(t, architecture) })
	}
}

func testFilterOfSetIDs(t *testing.T, architecture string) {
	info, err := arch.GetInfo(architecture)
	require.NoError(t, err)
	usual, shares := verdictsOf(t, architecture, false), verdictsOf(t, architecture, true)
	for _, test := range []struct {
		name      string
		arguments []uint64
		want      uint32
	}{
		{"chmod", []uint64{0, 0o777}, allowed},
		{"chmod", []uint64{0, 0o4755}, failWith(unix.EPERM)},
		{"fchmod", []uint64{0, 0o2755}, failWith(unix.EPERM)},
		{"fchmodat", []uint64{0, 0, 0o1777}, allowed},
		{"fchmodat", []uint64{0, 0, 0o6777}, failWith(unix.EPERM)},
		{"fchmodat2", []uint64{0, 0, 0o4000}, failWith(unix.EPERM)},
		{"mkdir", []uint64{0, 0o2755}, failWith(unix.EPERM)},
		{"mkdirat", []uint64{0, 0, 0o755}, allowed},
		{"mknod", []uint64{0, unix.S_IFREG | 0o4755}, failWith(unix.EPERM)},
		{"mknodat", []uint64{0, 0, unix.S_IFREG | 0o4755}, failWith(unix.EPERM)},
		{"creat", []uint64{0, 0o4755}, failWith(unix.EPERM)},
		{"open", []uint64{0, unix.O_RDWR | unix.O_CREAT, 0o4755}, failWith(unix.EPERM)},
		{"open", []uint64{0, unix.O_RDWR | unix.O_TMPFILE, 0o4755}, failWith(unix.EPERM)},
		{"open", []uint64{0, unix.O_RDWR | unix.O_DIRECTORY, 0o4755}, allowed}, // the last is whatever was there
		{"openat", []uint64{0, 0, unix.O_CREAT, 0o2644}, failWith(unix.EPERM)},
		{"openat", []uint64{0, 0, unix.O_CREAT, 0o666}, allowed},
		{"openat", []uint64{0, 0, unix.O_RDONLY, 0o6666}, allowed},
		{"openat2", nil, failWith(unix.ENOSYS)},
		{"ioctl", []uint64{0, unix.TIOCSTI}, failWith(unix.EPERM)},
		{"mount", nil, failWith(unix.EPERM)},
		{"read", nil, allowed},
	} {
		number, ok := info.SyscallNames[test.name]
		if !ok {
			continue // not on this architecture
		}
		assert.Equal(t, test.want, shares(uint32(info.ID), uint32(number), test.arguments...), "%s %#o", test.name, test.arguments)
		if test.name != "ioctl" && test.name != "mount" {
			assert.Equal(t, allowed, usual(uint32(info.ID), uint32(number), test.arguments...), "%s %#o, where nothing is shared", test.name, test.arguments)
		}
	}
}
