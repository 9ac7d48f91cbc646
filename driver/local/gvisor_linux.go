package local

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// With Options.GVisor, process 1 of a sandbox is gVisor's runsc, in the same namespaces: what the worker takes for the kernel is a
// program in there, and the host's kernel sees that program's few system calls instead of the worker's. runsc sets up
// and guards what init does otherwise, so init only gives it a place and becomes it.

const (
	runscPath    = "/runsc"
	gvisorRun    = "/run"
	gvisorBundle = gvisorRun + "/bundle"
	gvisorState  = gvisorRun + "/state"
	// gvisorTasks is the most that a sandbox has of the host's processes and threads. gVisor needs two for each process of its own, and
	// ends where it can't have them.
	gvisorTasks = 8 << 10
	// gvisorMiB is what gVisor itself needs of a sandbox's memory, and a little.
	gvisorMiB = 24
)

// findRunsc returns the program's path.
func findRunsc() (string, error) {
	path, err := exec.LookPath("runsc")
	if err != nil {
		return "", errNoRunsc
	}
	return filepath.Abs(path)
}

var errNoRunsc = errors.New("gVisor was asked for, and there is no runsc on PATH")

// gvisorStageSteps show runsc, and what it needs to run, beside the root of every sandbox.
func gvisorStageSteps(base string, runsc *os.File) []setup.Step {
	return []setup.Step{
		setup.MakeDir(base + "/tmp"), // where runsc builds a root of its own
		setup.MakeDir(base + gvisorRun),
		setup.MakeLink(setup.StageRoot[1:]+"/dev", base+"/dev"),
		setup.MakeFile(base+runscPath, ""),
		setup.Bind(fmt.Sprintf("/proc/self/fd/%d", runsc.Fd()), base+runscPath),
	}
}

// gvisorSteps turn the copy of the launcher's mounts into a place for runsc.
func gvisorSteps(p control.Preparation, o control.Orders) []setup.Step {
	steps := []setup.Step{
		{Name: "make a cgroup namespace", Do: func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{Name: "return to the launcher's root", Do: func() error { return unix.Chroot(".") }},
		{Name: "change to root", Do: func() error { return os.Chdir("/") }},
		setup.Mount("proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		setup.Tmpfs("tmp", 0o700, 16, 1<<10),
		setup.Tmpfs(gvisorRun[1:], 0o700, 16, 1<<10),
		setup.MakeDir(gvisorState),
	}
	if len(p.Mounts) > 0 {
		steps = append(steps, setup.OwnRootSteps(p.Mounts)...)
	}
	return append(steps,
		setup.Step{Name: "write gVisor's orders", Do: func() error {
			content, err := json.Marshal(bundle(p, o))
			if err != nil {
				return err
			}
			if err := os.Mkdir(gvisorBundle, 0o700); err != nil {
				return err
			}
			return os.WriteFile(gvisorBundle+"/config.json", content, 0o600)
		}},
		setup.CoreDumps.Step(),
		setup.Rlimit{Name: "processes", Resource: unix.RLIMIT_NPROC, Max: gvisorTasks}.Step(),
	)
}

// runGVisor is process 1 of a sandbox in gVisor, and then gVisor, whose exit status is the worker's.
func runGVisor() error {
	// What a service manager sends to all processes is for the program. As in the launcher.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	conn, p, err := setup.Begin()
	if err != nil {
		return err
	}
	var o control.Orders
	if !p.Probe {
		if o, err = setup.Await(conn); err != nil {
			return control.Send(conn, control.Failure("", "receive the worker's descriptors", err))
		}
	}
	if failed, err := setup.Do(gvisorSteps(p, o)); err != nil {
		return control.Send(conn, control.Failure("", failed, err))
	}
	if err := control.Send(conn, control.Event{Kind: control.EventStarted}); err != nil {
		return err
	}
	return becomeGVisor(conn, p, o)
}

// becomeGVisor replaces this process by runsc. The control socket goes on to it, for its end is the sandbox's.
func becomeGVisor(conn *os.File, p control.Preparation, o control.Orders) error {
	arguments := []string{
		runscPath, "--root=" + gvisorState, "--rootless", "--network=none", "--ignore-cgroups",
		"run", "--bundle=" + gvisorBundle,
	}
	kept := []int{int(conn.Fd())}
	if !p.Probe {
		for inside, fd := range []int{setup.ConnFD, setup.HandshakeFD, setup.LedgerFD, setup.DirectFD} {
			arguments = append(arguments, fmt.Sprintf("--pass-fd=%d:%d", fd, control.FD+inside))
			kept = append(kept, fd)
		}
		for fd, stream := range map[int]int{syscall.Stdout: setup.StdoutFD, syscall.Stderr: setup.StderrFD} {
			if err := unix.Dup3(stream, fd, 0); err != nil {
				return os.NewSyscallError("dup3", err)
			}
		}
	}
	for _, fd := range kept {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	// The container's name, which shows in the host's list of processes.
	arguments = append(arguments, cmp.Or(strings.ReplaceAll(o.Name, "/", "_"), roleProbe))
	err := syscall.Exec(runscPath, arguments, nil)
	runtime.KeepAlive(conn) // or it could be closed before
	return err
}

// startInGVisor replaces this process by the worker, whose system calls are filtered as they are without gVisor: what few programs
// need is not for it to try on gVisor's kernel either. runsc gives HOME to a process that has none; the worker's environment is
// the spec's.
func startInGVisor(homeless bool) error {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, setup.RoleVariable+"=") || homeless && isHome(entry)
	})
	packed, err := filterOf(false)
	if err != nil {
		return err
	}
	filter, err := setup.UnpackFilter(packed)
	if err != nil {
		return err
	}
	if err := setup.FilterCalls(filter, 0); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return syscall.Exec(setup.WorkerPath, []string{setup.WorkerPath}, env)
}

func isHome(entry string) bool { return strings.HasPrefix(entry, "HOME=") }

// gvisorReport is what becomes of a report of sandboxes without gVisor.
func gvisorReport(r driver.Report) driver.Report {
	r.Isolation = driver.OwnKernel
	for i := range r.Capabilities {
		switch c := &r.Capabilities[i]; c.Name {
		case "system calls", "commands to devices":
			*c = driver.Capability{Name: c.Name, Held: true, By: "gVisor's kernel, which answers them, in namespaces of the host's"}
		case "privileges":
			c.By = "gVisor's kernel, with no capabilities and no_new_privs, in a user namespace of the host's"
		case driver.LimitOpenFiles:
			c.By = "RLIMIT_NOFILE of gVisor's kernel"
		case driver.LimitDisk:
			c.By = "the size of /work, of /tmp and of /dev/shm, each a file system in the memory of gVisor's kernel"
		case driver.LimitProcesses, driver.LimitInodes:
			c.Held, c.By, c.Why = false, "", "gVisor counts no "+c.Name
			c.Remedies = []string{"use the driver without gVisor"}
		}
	}
	return r
}

// bundle is what runsc is to run, in the words of the Open Container Initiative's runtime specification,
// https://github.com/opencontainers/runtime-spec/blob/main/config.md.
func bundle(p control.Preparation, o control.Orders) map[string]any {
	env := append(control.UnpackEnv(o.Env), setup.RoleVariable+"="+roleStart)
	switch {
	case p.Probe:
		env = []string{setup.RoleVariable + "=" + roleProbe}
	case !slices.ContainsFunc(env, isHome):
		env[len(env)-1] = setup.RoleVariable + "=" + roleStartHomeless
	}
	var rlimits []map[string]any
	for name, most := range map[string]int{"RLIMIT_NOFILE": p.Limits.OpenFiles, "RLIMIT_CORE": setup.CoreDumps.Max} {
		rlimits = append(rlimits, map[string]any{"type": name, "soft": most, "hard": most})
	}
	scratch := func(path, mode string, sizeMiB int) map[string]any {
		return map[string]any{"destination": path, "type": "tmpfs", "source": "tmpfs", "options": []string{
			"nosuid", "nodev", "mode=" + mode, fmt.Sprintf("size=%dm", sizeMiB), fmt.Sprintf("uid=%d", setup.InnerID), fmt.Sprintf("gid=%d", setup.InnerID),
		}}
	}
	var namespaces []map[string]string
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		scratch("/tmp", "1777", p.Limits.DiskMiB), scratch(setup.WorkFolder, "0700", p.Limits.DiskMiB), scratch("/dev/shm", "1777", min(64, p.Limits.DiskMiB)),
	}
	root := setup.StageRoot
	for _, m := range p.Mounts { // all are for reading
		root = setup.OwnRoot
		mounts = append(mounts, map[string]any{
			"destination": m.Target, "type": "bind", "source": setup.MountPath(m.Number), "options": []string{"rbind", "ro", "nosuid", "nodev"},
		})
	}
	return map[string]any{
		"ociVersion": "1.0.0",
		"hostname":   setup.HostName,
		"root":       map[string]any{"path": root, "readonly": true},
		"process": map[string]any{
			"user":            map[string]int{"uid": setup.InnerID, "gid": setup.InnerID},
			"args":            []string{setup.AgentPath},
			"env":             env,
			"cwd":             setup.WorkFolder,
			"noNewPrivileges": true,
			"capabilities":    map[string]any{},
			"rlimits":         rlimits,
		},
		"mounts": mounts,
		"linux":  map[string]any{"namespaces": namespaces},
	}
}
