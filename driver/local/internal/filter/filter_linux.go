// Package filter assembles the filter of system calls that driver/local puts sandboxes behind. Its audience is package write, which writes the
// programs into driver/local: the tables of names and numbers that they are made from would cost each start of a sandbox half a millisecond.
package filter

import (
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filter allows what Docker's default profile allows to a container without capabilities, less what denied names,
// with arguments narrowed by argumentRules. All else fails with EPERM. It is assembled here and not by the policy type
// of go-seccomp-bpf, whose programs go on to compare the number of a system call after having overwritten it with an
// argument: socket(40) would pass because 40 is also the number of sendfile.

// denied are system calls that the profile allows.
var denied = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "process_mrelease", // other processes' memory
	"clone3",                                                                       // its flags are behind a pointer; libc falls back to clone on ENOSYS
	"modify_ldt", "memfd_secret", "remap_file_pages", "uretprobe", "fanotify_mark", // attack surface that nobody needs
	"cachestat", "mincore", // tell which of the host's files are in use; mincore, of files that are the caller's
	"name_to_handle_at", "listmount", "statmount", // show more of mounts than a worker may know
	"adjtimex", "clock_adjtime", // the host's clock
	"io_setup",   // takes from a number of requests that the whole machine shares
	"socketcall", // hides the arguments of socket
}

// missing are denied with ENOSYS, so that libraries take the older way.
var missing = []string{"clone3", "mincore"}

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

const rlimitCount = 16 // RLIM_NLIMITS of <linux/resource.h>

const shmHugeTLB = 0o4000 // SHM_HUGETLB of <linux/shm.h>

// A test holds if the low 32 bits of an argument, masked, equal want; or, of an argument numbered from upperHalf on, the high 32. The
// kernel takes no more than 32 bits of any argument whose high half isn't tested.
type test struct {
	argument   uint32
	mask, want uint32
}

// upperHalf is added to an argument's number.
const upperHalf = 8

// An argumentRule says for which arguments a system call is allowed: if all tests of any row hold; or, where refuse is
// true, if none does.
type argumentRule struct {
	name   string
	refuse bool
	rows   [][]test
}

func exactly(argument, want uint32) test { return test{argument, ^uint32(0), want} }

func argumentRules() []argumentRule {
	const typeMask = 0xf // without SOCK_CLOEXEC and SOCK_NONBLOCK
	sockets := argumentRule{name: "socket", rows: [][]test{
		{exactly(0, unix.AF_UNIX)},
		{exactly(0, unix.AF_NETLINK), exactly(2, unix.NETLINK_ROUTE)},
	}}
	for _, domain := range []uint32{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			for _, protocol := range []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				sockets.rows = append(sockets.rows, []test{exactly(0, domain), {1, typeMask, kind}, exactly(2, protocol)})
			}
		}
	}
	personality := argumentRule{name: "personality"}
	// Linux, 32-bit addresses, UTS version 2.6, no address randomisation (the race detector's wish), and the question.
	for _, value := range []uint32{0, 0x0008, 0x20000, 0x20008, 0x40000, 0xffffffff} {
		personality.rows = append(personality.rows, []test{exactly(0, value)})
	}
	// A crash is dumped to the host's handler, which is root's, unless the limit of core dumps is exactly 1: so it is not to be changed.
	setLimit, prLimit := argumentRule{name: "setrlimit"}, argumentRule{name: "prlimit64"}
	for resource := range uint32(rlimitCount) {
		if resource != unix.RLIMIT_CORE {
			setLimit.rows = append(setLimit.rows, []test{exactly(0, resource)})
			prLimit.rows = append(prLimit.rows, []test{exactly(1, resource)})
		}
	}
	prLimit.rows = append(prLimit.rows, []test{exactly(2, 0), exactly(2+upperHalf, 0)}) // only asks
	return []argumentRule{
		setLimit,
		prLimit,
		{name: "clone", rows: [][]test{{{0, namespaceFlags, 0}}}},
		sockets,
		{name: "socketpair", rows: [][]test{{exactly(0, unix.AF_UNIX)}}},
		personality,
		// TIOCSETD has the kernel load and run one of many drivers behind a terminal.
		{name: "ioctl", refuse: true, rows: [][]test{{exactly(1, unix.TIOCSTI)}, {exactly(1, unix.TIOCLINUX)}, {exactly(1, unix.TIOCSETD)}}},
		// A socket that lingers has whoever closes it last wait: the session, if a worker passes it on the connection and nobody receives it.
		{name: "setsockopt", refuse: true, rows: [][]test{{exactly(1, unix.SOL_SOCKET), exactly(2, unix.SO_LINGER)}}},
		// Urgent data is attack surface that nobody needs: on Unix sockets, where it is young, it has been a way into the kernel.
		{name: "sendto", refuse: true, rows: [][]test{{{3, unix.MSG_OOB, unix.MSG_OOB}}}},
		{name: "sendmsg", refuse: true, rows: [][]test{{{2, unix.MSG_OOB, unix.MSG_OOB}}}},
		{name: "sendmmsg", refuse: true, rows: [][]test{{{3, unix.MSG_OOB, unix.MSG_OOB}}}},
		// F_NOTIFY watches folders of the host, as inotify would. A lease on a file that sandboxes share, which is an ordinary
		// user's own, has whoever opens it wait.
		{name: "fcntl", refuse: true, rows: [][]test{{exactly(1, unix.F_NOTIFY)}, {exactly(1, unix.F_SETLEASE)}}},
		// To drop a file of the host from the page cache, or to read it past that, and see when it is there again, would also be to watch.
		{name: "fadvise64", refuse: true, rows: [][]test{{exactly(3, unix.FADV_DONTNEED)}}},
		{name: "madvise", refuse: true, rows: [][]test{{exactly(2, unix.MADV_PAGEOUT)}}},
		{name: "preadv2", refuse: true, rows: [][]test{{{5, unix.RWF_NOWAIT, unix.RWF_NOWAIT}}, {{5, unix.RWF_DONTCACHE, unix.RWF_DONTCACHE}}}},
		// The host's huge pages, which are set aside for somebody.
		{name: "mmap", refuse: true, rows: [][]test{{{3, unix.MAP_HUGETLB, unix.MAP_HUGETLB}}}},
		{name: "memfd_create", refuse: true, rows: [][]test{{{1, unix.MFD_HUGETLB, unix.MFD_HUGETLB}}}},
		{name: "shmget", refuse: true, rows: [][]test{{{2, shmHugeTLB, shmHugeTLB}}}},
	}
}

// setIDRules are for sandboxes that can change folders of the host. A file there that is set to its user's or group's id would let others
// on the host, who need not be trusted by the sandbox's user, act as that user.
func setIDRules() []argumentRule {
	const temporaryFile = 0o20000000 // the part of O_TMPFILE that is not O_DIRECTORY
	var rules []argumentRule
	modes := map[string]uint32{
		"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2, "creat": 1, "open": 2, "openat": 3,
	}
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		mode := modes[name]
		rule := argumentRule{name: name, refuse: true}
		for _, bit := range []uint32{unix.S_ISUID, unix.S_ISGID} {
			has := test{mode, bit, bit}
			if name != "open" && name != "openat" {
				rule.rows = append(rule.rows, []test{has})
				continue
			}
			for _, flag := range []uint32{unix.O_CREAT, temporaryFile} { // else there is no mode
				rule.rows = append(rule.rows, []test{{mode - 1, flag, flag}, has})
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

// allowedNames are the system calls that the profile allows whatever their arguments, on an architecture, without
// capabilities.
func allowedNames(architecture string) []string {
	var names []string
	for _, group := range profile.DefaultProfile().Syscalls {
		if group.Action != specs.ActAllow || len(group.Args) > 0 {
			continue
		}
		if in := group.Includes; in != nil && (len(in.Caps) > 0 || len(in.Arches) > 0 && !slices.Contains(in.Arches, architecture)) {
			continue
		}
		names = append(names, group.Names...)
	}
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(denied, name) })
}

// Architectures are those that Assemble knows, by their names in Go. The constants that rules test have the same values on all of them.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Assemble returns the seccomp program for an architecture; shares says that the sandbox can change folders of the host.
func Assemble(architecture string, shares bool) ([]unix.SockFilter, error) {
	info, err := arch.GetInfo(architecture)
	if err != nil {
		return nil, err
	}
	number := func(name string) (uint32, bool) {
		n, ok := info.SyscallNames[name]
		return uint32(n), ok
	}
	const (
		numberOffset, archOffset = 0, 4
		allow                    = bpfAction(unix.SECCOMP_RET_ALLOW)
		refuse                   = bpfAction(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
		notHere                  = bpfAction(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	)
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		refuse.ret(), // int 0x80
		bpf.LoadAbsolute{Off: numberOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(arch.X32.SeccompMask), SkipTrue: 1},
		notHere.ret(), // x32
	}
	rules, missing := argumentRules(), missing
	if shares {
		for _, rule := range setIDRules() {
			if _, ok := number(rule.name); ok { // new architectures leave out what others replace
				rules = append(rules, rule)
			}
		}
		missing = append(slices.Clone(missing), "openat2") // its mode is behind a pointer
	}
	for _, name := range missing {
		if n, ok := number(name); ok {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, notHere.ret())
		}
	}
	for _, rule := range rules {
		n, ok := number(rule.name)
		if !ok {
			return nil, fmt.Errorf("system call %s has no number on %s", rule.name, info.Name)
		}
		hit, otherwise := allow, refuse
		if rule.refuse {
			hit, otherwise = refuse, allow
		}
		// Every way through a rule's block returns, so what follows still finds the number in the accumulator.
		block := append(rule.block(hit), otherwise.ret())
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(block))})
		program = append(program, block...)
	}
	var numbers []uint32
	for _, name := range allowedNames(architecture) {
		if n, ok := number(name); ok && !slices.ContainsFunc(rules, func(r argumentRule) bool { return r.name == name }) {
			numbers = append(numbers, n)
		}
	}
	for _, span := range spans(numbers) {
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: span[0], SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: span[1], SkipTrue: 1},
			allow.ret())
	}
	program = append(program, refuse.ret())

	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return filter, nil
}

type bpfAction uint32

func (a bpfAction) ret() bpf.Instruction { return bpf.RetConstant{Val: uint32(a)} }

// block returns hit if a row of the rule holds, and falls through otherwise.
func (r argumentRule) block(hit bpfAction) []bpf.Instruction {
	var block []bpf.Instruction
	for _, row := range r.rows {
		for i, t := range row {
			toNextRow := uint8(3*(len(row)-i-1) + 1)
			offset := 16 + 8*(t.argument%upperHalf) // of the low half: both architectures are little-endian
			if t.argument >= upperHalf {
				offset += 4
			}
			block = append(block,
				bpf.LoadAbsolute{Off: offset, Size: 4},
				bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: t.mask},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: t.want, SkipTrue: toNextRow})
		}
		block = append(block, hit.ret())
	}
	return block
}

// spans joins numbers into inclusive ranges, ascending.
func spans(numbers []uint32) [][2]uint32 {
	slices.Sort(numbers)
	var spans [][2]uint32
	for _, n := range slices.Compact(numbers) {
		if last := len(spans) - 1; last >= 0 && spans[last][1]+1 == n {
			spans[last][1] = n
		} else {
			spans = append(spans, [2]uint32{n, n})
		}
	}
	return spans
}
