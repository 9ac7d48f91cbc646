package local

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/agent"
)

// The descriptors that init has beside its control socket: the worker's.
const (
	initConnFD = controlFD + 1 + iota
	initHandshakeFD
	initStdoutFD
	initStderrFD
	initDirectFD
	initLedgerFD
)

// runInit is process 1 of a sandbox, born in its namespaces with all capabilities over them and none over the host. It
// finishes the sandbox and gives up every privilege on this thread; that may be long before it gets its orders, upon which it starts
// the worker from that thread, and executes itself as the agent, which ends the threads that still had privileges.
func runInit() error {
	// What a service manager sends to all processes is for the program. As in the launcher.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := closeOnExec(); err != nil {
		return err
	}
	conn, err := asConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	var p preparation
	if _, err := receive(conn, &p, maxMessage); err != nil {
		return err
	}
	if !p.GVisor {
		steps := append(rootSteps(p.Resources, p.Mounts), privilegeSteps(p)...)
		if failed, err := run(steps); err != nil {
			return send(conn, failure("", failed, err))
		}
	}
	var o orders
	switch {
	case !p.Probe:
		files, err := receive(conn, &o, maxMessage)
		if err != nil {
			return err
		}
		for i, fd := range files {
			if err := unix.Dup3(fd, initConnFD+i, unix.O_CLOEXEC); err != nil {
				return os.NewSyscallError("dup3", err)
			}
		}
		closeAll(files)
	case !p.GVisor:
		return send(conn, event{Kind: eventStarted})
	}
	if p.GVisor {
		if failed, err := run(gvisorSteps(p, o)); err != nil {
			return send(conn, failure("", failed, err))
		}
		if err := send(conn, event{Kind: eventStarted}); err != nil {
			return err
		}
		return becomeGVisor(conn, p, o)
	}
	// The worker has the signals' defaults: the runtime sees to it, but not for those of libc.
	if err := agent.IgnoreSignals(32, 33, 34); err != nil {
		return os.NewSyscallError("rt_sigaction", err)
	}
	pid, err := startWorker(unpackEnv(o.Env))
	if err != nil {
		return send(conn, failure("", "start the worker", err))
	}
	if err := becomeAgent(conn, pid, o.Name); err != nil {
		return send(conn, failure("", "become the agent", err))
	}
	return nil
}

// hiddenInProc is what a sandbox has no business with in its /proc: it is the host's, and namespaces don't cover it.
var hiddenInProc = []string{
	"acpi", "asound", "bus", "config.gz", "driver", "fs", "interrupts", "irq", "kallsyms", "kcore", "key-users", "keys",
	"kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "modules", "sched_debug", "scsi", "slabinfo",
	"sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo", "iomem", "ioports", "mtrr", "pressure",
	"buddyinfo", "cmdline", "diskstats", "partitions", "zoneinfo",
}

// rootSteps turn the copy of the launcher's mounts into this sandbox's own root.
func rootSteps(r driver.Resources, mounts []placed) []step {
	steps := []step{
		// Not at birth: init may have been put into its group since.
		{"make a cgroup namespace", func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{"return to the launcher's root", func() error { return unix.Chroot(".") }},
	}
	root := stageRoot
	if len(mounts) > 0 {
		root = ownRoot
		steps = append(steps, ownRootSteps(mounts)...)
	} else {
		// What was copied from the launcher is locked in place, and a root must not be.
		steps = append(steps, bind(stageRoot, stageRoot))
	}
	steps = append(steps,
		step{"change to " + root, func() error { return os.Chdir(root) }},
		// hidepid: nothing is to be seen of the agent, which is not dumpable.
		mount("proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "hidepid=2"),
		tmpfs("tmp", 0o1777, r.DiskMiB, r.Inodes),
		tmpfs(workFolder[1:], 0o700, r.DiskMiB, r.Inodes),
		tmpfs("dev/shm", 0o1777, min(64, r.DiskMiB), min(1<<10, r.Inodes)),
		// Whoever opens a terminal owns it. The kernel has 4096 for the whole machine, of which it keeps 1024 for the host's own.
		mount("devpts", terminals[1:], unix.MS_NOSUID|unix.MS_NOEXEC, fmt.Sprintf("newinstance,ptmxmode=0666,mode=0600,max=%d", maxTerminals)),
		step{"forbid namespaces", forbidNamespaces},
		bind("proc/sys", "proc/sys"),
		restrict("proc/sys", readOnly|unix.MOUNT_ATTR_NOEXEC),
		step{"hide parts of /proc", hideProc},
	)
	if len(mounts) > 0 {
		steps = append(steps, mountSteps(mounts)...)
	}
	steps = append(steps, enterRoot(".")...)
	return append(steps,
		step{"set host name", func() error { return unix.Sethostname([]byte(hostName)) }},
		step{"bring up loopback", loopbackUp},
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
			cover = emptyFolder[1:]
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

type rlimit struct {
	name     string
	resource int
	max      int
}

func (r rlimit) step() step {
	return step{"limit " + r.name, func() error {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(r.resource, &now); err != nil {
			return err
		}
		most := min(now.Max, uint64(r.max))
		return syscall.Setrlimit(r.resource, &syscall.Rlimit{Cur: most, Max: most})
	}}
}

// coreDumps allows none: with a limit of 0 the kernel would still start the host's handler, as root, if its core pattern names one.
var coreDumps = rlimit{"core dumps", unix.RLIMIT_CORE, 1}

// rlimits are the most that a sandbox's processes get; what the caller has less of stays as it is.
func rlimits(r driver.Resources) []rlimit {
	return []rlimit{
		coreDumps,
		{"open files", unix.RLIMIT_NOFILE, r.OpenFiles},
		{"processes", unix.RLIMIT_NPROC, r.Processes}, // threads count; counted for this user namespace alone
		{"locked memory", unix.RLIMIT_MEMLOCK, 8 << 20},
		{"queued signals", unix.RLIMIT_SIGPENDING, 4096},
		{"message queues", unix.RLIMIT_MSGQUEUE, 800 << 10},
	}
}

// privilegeSteps leave this thread, and what it starts, without any privilege. No step undoes or needs a later one.
func privilegeSteps(p preparation) []step {
	var steps []step
	for _, limit := range rlimits(p.Resources) {
		steps = append(steps, limit.step())
	}
	return append(steps,
		step{"set file mode mask", func() error { unix.Umask(0o022); return nil }},
		step{"join a new session keyring", func() error {
			// Without a name: a named one that exists already would be joined. Without keyrings, or with a container's
			// filter that forbids them, there is nothing to leave behind.
			_, _, _ = unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
			return nil
		}},
		// Until the worker executes, nothing of this process can be read or traced by it.
		step{"become undumpable", func() error { return prctl(unix.PR_SET_DUMPABLE, 0) }},
		step{"lock securebits", func() error { return prctl(unix.PR_SET_SECUREBITS, lockedSecurebits) }},
		step{"empty the bounding set", func() error {
			for capability := range uintptr(64) {
				if err := prctl(unix.PR_CAPBSET_DROP, capability); errors.Is(err, unix.EINVAL) {
					return nil // the kernel knows no more
				} else if err != nil {
					return err
				}
			}
			return nil
		}},
		step{"clear ambient capabilities", func() error { return prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL) }},
		step{"drop capabilities", func() error {
			var none [2]unix.CapUserData
			return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		}},
		step{"set no_new_privs", func() error { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
		step{"enter a Landlock domain", func() error { return landlock(landlockVersion(), writableBelow(p.Mounts)) }},
		step{"filter system calls", func() error {
			filter, err := unpackFilter(p.Filter)
			if err != nil {
				return err
			}
			return filterCalls(filter)
		}},
	)
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

// startWorker starts the worker, in a session of its own, with exactly its seven descriptors.
func startWorker(env []string) (int, error) {
	null, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(null)
	return syscall.ForkExec(workerPath, []string{workerPath}, &syscall.ProcAttr{
		Dir:   workFolder,
		Env:   env,
		Files: []uintptr{uintptr(null), initStdoutFD, initStderrFD, initConnFD, initHandshakeFD, initLedgerFD, initDirectFD},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// becomeAgent replaces this process, of which only descriptors 0 to 2 and the control socket go on.
func becomeAgent(conn interface{ File() (*os.File, error) }, worker int, name string) error {
	control, err := conn.File()
	if err != nil {
		return err
	}
	if err := unix.Dup3(int(control.Fd()), agent.ControlFD, 0); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return syscall.Exec(agentPath, []string{agentPath, name}, []string{agent.Variable + "=" + strconv.Itoa(worker)})
}
