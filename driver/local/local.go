// Package local is the driver that runs workers in Linux namespaces: no daemon, no root, no installation.
//
// Its audience is application authors (sbx.Open uses it by default) and whoever must judge what it holds. On other
// operating systems, and where the kernel refuses user namespaces, Open fails with a *driver.UnavailableError that
// names the remedies; it never degrades.
//
// # How
//
// The program re-executes itself in three roles, chosen by an environment variable (SBX_LOCAL, SBX_LOCAL_AGENT) before any of the
// program's own code has a chance to run main:
//
//   - the launcher, one small process per session, with an empty environment. It builds the root that all sandboxes of
//     the session share, in a mount namespace of its own, makes every sandbox (so a start costs the same however large
//     the program's heap is) and its cgroup, and kills all of them and exits when the program is gone;
//   - init, process 1 of each sandbox, which finishes the namespaces it was born in, gives up every privilege, starts
//     the worker, and turns into (by an execution more if the program has C code, whose threads would keep privileges)
//   - the agent, which reaps, reports how the worker ended, and ends the sandbox with it.
//
// The session keeps copies of the program and the worker in the memory-backed root, made when it opens: neither a
// rebuild nor a removal on disk reaches running sessions, and no path of the host shows inside.
//
// # What a worker sees
//
// Descriptors 0 to 6 of package driver and nothing else. Exactly the environment of its spec. User and group 1000, no
// capabilities, host name "sandbox". A read-only root with the host's /usr (and /bin, /sbin, /lib*), a few entries in
// /etc, /proc of its own, /dev with null, zero, full, random and urandom, and pseudo terminals of its own (/dev/ptmx, 128 at a
// time). It starts in /work, which, like /tmp, is empty, writable, private, and limited in size and inodes; $HOME is set only
// by the spec.
//
// # Mounts
//
// What a spec mounts is shown by the kernel as it is: files belong to whom they belong to, and what happens to them on this machine shows
// at once. The user inside is this program's, and may do what that user may (but nothing where the mount is for reading); for root it is, as said below, a user
// that owns nothing, so that files can be read if everybody may read them, and a folder can be written to if everybody may, and new
// files there belong to that user's number. All other users' files seem to be nobody's. A source is looked up when a sandbox is made; while the
// session is open what it has mounted stays in use, as by an open file. DiskMiB and Inodes bound nothing in a writable mount.
//
// Mounts are without setuid and devices, and what is mounted below a source can only be read. Links in them are followed within the
// sandbox. A sandbox with a writable mount can't make setuid or setgid files and folders, nor use openat2. With gVisor mounts are for
// reading only.
//
// A socket or named pipe in a mounted folder connects the sandbox with whoever serves it, also where the mount is for reading: mount no
// folder with the sockets of services. What a sandbox leaves in a writable mount is not to be trusted: programs, links, and files that programs obey.
//
// # What is held
//
// Files, processes, signals, environment, IPC, abstract sockets and the network of the host and of other sandboxes are
// out of reach: user, mount, pid, net, ipc, uts and cgroup namespaces, with loopback only. The user inside is the
// caller outside; for root it is a high user id that nothing else uses, another one for each sandbox, if root has such ids and may give
// them: in most containers it is a caller as others are. No new
// privileges, an empty bounding set, locked securebits, a list of allowed system calls (no namespaces, mounts, ptrace,
// keyrings, io_uring, AIO, bpf, perf, userfaultfd, POSIX message queues, huge pages, leases, raw, packet, vsock or AF_ALG
// sockets, TIOCSTI, line disciplines, 32-bit or x32 calls). Files can't be watched (inotify), since those in /usr are the host's. Where the
// kernel has Landlock, a worker may write to /tmp, /work and /dev/shm only even if the mounts let it.
// Everything dies with the program, kill -9 included: the launcher sees its socket close, and sandboxes die with the
// launcher (by parent-death signal and because their own socket closes).
//
// # Limits
//
// Processes, OpenFiles, DiskMiB and Inodes are held on every machine, and have defaults: 4096 processes and threads, 16,384 open files,
// /work and /tmp of Options.ScratchMiB with 16,384 inodes each. /dev/shm has 64 MiB and 1024 inodes, or what DiskMiB and
// Inodes say if that is less. A user whose own limits (ulimit) are lower has those.
//
// CPUs and MemoryMiB have no default. They are held by a cgroup for each sandbox that asks for them, in version 1, hybrid and version 2,
// where the program may make cgroups: as root, unless cgroups are read-only as in most containers; and as an ordinary user in a
// cgroup that was delegated: systemd-run --user --scope -p Delegate=yes PROGRAM. In version 2 processes and the groups that are limited can't
// stand in the same group, so with the first sandbox that is limited the program, with all else that is in its group, moves to the
// group sbx-program below, and stays there. Root's groups are beside the program's if that is not possible. Elsewhere these limits are refused (a
// *driver.LimitError), and the session's report says why.
//
// Groups are removed with their sandboxes, by the launcher, also when the program was killed. If the launcher itself is killed, the groups
// of its sandboxes stay, empty, until the next session that limits a sandbox in the same place removes them.
//
// A sandbox that is over its MemoryMiB loses the process that has most, and driver.Exit says so of the worker, exactly. Without
// MemoryMiB, driver.Exit tells a kill for lack of memory from another one by the kernel's count of such kills in the memory cgroup
// of the program, which these sandboxes share, or on the whole machine where that can't be read. It is wrong then about a worker that is killed
// otherwise while memory runs out for another process.
//
// Workers get GOMAXPROCS and GOMEMLIMIT (nine tenths of MemoryMiB, or of what gVisor leaves of it) to match, where these limits are held, and
// unless the spec's environment has them.
//
// # What is not held yet
//
// Memory and CPU are limited only where that was asked for, and pipe and socket buffers by MemoryMiB alone. An ordinary user's
// supplementary groups stay with the sandbox: they count for files below the folders named above. Whatever is readable below /usr for
// the user can be read. docs/security.md has the whole list, and what was tried.
package local

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/sandboxfn/sbx/driver"
)

// Options configure the driver. The zero value is the default.
type Options struct {
	// ScratchMiB is the size of each sandbox's /work and of its /tmp, in MiB, where its spec has no DiskMiB. They are held in memory, and
	// only what is written counts. 0 means 256.
	ScratchMiB int
	// GVisor runs each sandbox on a kernel of its own, gVisor's, by the program runsc of 2023 or later, which must be on PATH.
	// Sandboxes take some ten times as long to start, and system calls much longer. A signal that ends a worker is known by
	// runsc's exit status, 128 and its number, and so are exit statuses from 129 to 192. Processes and Inodes can't be limited there, and have no
	// default either: a bomb of processes takes memory, which MemoryMiB limits, and ends its sandbox at some 4000 processes.
	GVisor bool
}

const defaultScratchMiB = 256

func init() { driver.Register(driverName, fromURL) }

// fromURL has the options' fields as parameters: "local:?gvisor=true&scratch-mib=1024".
func fromURL(u *url.URL) (driver.Driver, error) {
	var opts Options
	for name, values := range u.Query() {
		var err error
		switch value := values[len(values)-1]; name {
		case "gvisor":
			opts.GVisor, err = strconv.ParseBool(value)
		case "scratch-mib":
			opts.ScratchMiB, err = strconv.Atoi(value)
		default:
			err = errors.New("there is no such parameter; there are gvisor and scratch-mib")
		}
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", name, err)
		}
	}
	if u.Host != "" || u.Path != "" || u.Opaque != "" {
		return nil, errors.New("sandboxes are on this machine: give parameters only, as in local:?gvisor=true")
	}
	return New(&opts), nil
}

// New returns the driver. opts may be nil. It does no I/O; what is wrong with opts is reported by Open. Its URL is "local", with the options as
// parameters: "local:?gvisor=true&scratch-mib=1024".
func New(opts *Options) driver.Driver {
	d := localDriver{scratchMiB: defaultScratchMiB}
	if opts == nil {
		return d
	}
	d.gvisor = opts.GVisor
	if opts.ScratchMiB != 0 {
		d.scratchMiB = opts.ScratchMiB
	}
	return d
}

const driverName = "local"

type localDriver struct {
	scratchMiB int
	gvisor     bool
}

func (localDriver) Name() string { return driverName }

// defaults are the limits of sandboxes that don't ask for others.
func (d localDriver) defaults() driver.Resources {
	return driver.Resources{Processes: 4096, OpenFiles: 16 << 10, DiskMiB: d.scratchMiB, Inodes: 16 << 10}
}

// SetupError says which step of making a sandbox failed.
type SetupError struct {
	// Sandbox is the sandbox's id; empty for what the session's sandboxes share.
	Sandbox string
	// Step names what was being done: "mount /proc".
	Step string
	// Err is the cause, which wraps a syscall.Errno, or is one, where the kernel refused.
	Err error
}

func (e *SetupError) Error() string {
	if e.Sandbox == "" {
		return fmt.Sprintf("set up sandboxes: %s: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("set up sandbox %s: %s: %v", e.Sandbox, e.Step, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }
