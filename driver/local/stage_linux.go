package local

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The launcher builds, once, in its mount namespace:
//
//	/            a tmpfs: all that the launcher keeps of the host is /proc
//	/proc        the host's, for the uid maps, and because a user namespace may mount a proc only where one is visible
//	/sandbox     the root of every sandbox, read-only
//	/mounts      what sandboxes have mounted of the host, by numbers; root_linux.go says how they get it
//	/temporary   the client's, which has it open: what it makes there is gone with it and the launcher, however they end
//
// Each sandbox begins with a copy of these mounts. Its user namespace is below the launcher's, so the kernel locks
// their attributes: even a sandbox's init, with all its capabilities, can't make them writable or look beneath.

const (
	stageRoot   = "/sandbox"
	temporary   = "/temporary"
	agentPath   = "/.sbx/agent"  // the program that this session belongs to
	workerPath  = "/.sbx/worker" // the session's worker
	emptyFolder = "/.sbx/empty"  // covers folders that a sandbox must not see
	workFolder  = "/work"
	terminals   = "/dev/pts" // the sandbox's own pseudo terminals
	hostName    = "sandbox"
	innerID     = 1000 // user and group inside
)

const readOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// stageSteps are the steps that build the above. program and worker are read from their start. runsc is nil without gVisor.
func stageSteps(program, worker, runsc *os.File) []step {
	const base = "/tmp" // any folder that is always there; nobody else sees what is mounted on it
	root := base + stageRoot
	in := func(path string) string { return root + path }

	steps := []step{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		tmpfs(base, 0o755, 1, 4096), // for some thousand mounts
		makeDir(base + mountsFolder), makeDir(base + ownRoot), makeDir(base + temporary),
		makeDir(base + "/proc"),
		bind("/proc", base+"/proc"),
		makeDir(root),
		{"mount tmpfs for the sandbox root", func() error {
			size, err := sizeOf(program, worker)
			if err != nil {
				return err
			}
			data := fmt.Sprintf("mode=0755,size=%d,nr_inodes=4096", size+16<<20)
			return unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data)
		}},
		makeDir(in("/proc")), makeDir(in("/tmp")), makeDir(in(workFolder)), makeDir(in(emptyFolder)),
		makeDir(in("/dev/shm")), makeDir(in("/etc")), makeDir(in("/var")), makeDir(in("/run")),
		{"copy the worker", func() error { return copyExecutable(worker, in(workerPath), 0o555) }},
		// Nobody can read the agent's. So it is undumpable from its execution on, when a worker, which is the same user, runs
		// already; it can't be the same file where it is the same program. gVisor, whose process 1 is another, executes what it can read.
		{"copy the program", func() error {
			mode := os.FileMode(0o111)
			if runsc != nil {
				mode = 0o555
			}
			return copyExecutable(program, in(agentPath), mode)
		}},
		makeLink("/tmp", in("/var/tmp")),
		makeLink("/proc/self/fd", in("/dev/fd")),
		makeLink("/proc/self/fd/0", in("/dev/stdin")),
		makeLink("/proc/self/fd/1", in("/dev/stdout")),
		makeLink("/proc/self/fd/2", in("/dev/stderr")),
		makeDir(in(terminals)), makeLink("pts/ptmx", in("/dev/ptmx")), // each sandbox mounts its own there
	}
	// tty is, for whoever opens it, the own terminal.
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		steps = append(steps,
			makeFile(in("/dev/"+name), ""),
			bind("/dev/"+name, in("/dev/"+name)),
			restrict(in("/dev/"+name), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC))
	}
	for _, path := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		steps = append(steps, hostFolder(path, in(path))...)
	}
	// Images of containers keep applications there, with all that belongs to them.
	if info, err := os.Stat("/usr/src"); err == nil && info.IsDir() {
		steps = append(steps, bind(in(emptyFolder), in("/usr/src")))
	}
	for _, path := range []string{"/etc/alternatives", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates"} {
		steps = append(steps, hostFolder(path, in(path))...)
	}
	for path, content := range etcFiles {
		steps = append(steps, makeFile(in(path), content))
	}
	for _, path := range []string{"/etc/localtime", "/etc/ld.so.cache"} {
		if content, err := os.ReadFile(path); err == nil && len(content) <= 4<<20 {
			steps = append(steps, makeFile(in(path), string(content)))
		}
	}
	if runsc != nil {
		steps = append(steps, gvisorStageSteps(base, runsc)...)
	}
	steps = append(steps, step{"make the sandbox root read-only", func() error { return makeReadOnly(root) }})
	return append(steps, enterRoot(base)...)
}

// etcFiles is what every sandbox has in /etc beside the host's certificates, time zone and linker cache.
var etcFiles = map[string]string{
	"/etc/passwd":        fmt.Sprintf("sandbox:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", innerID, innerID, workFolder),
	"/etc/group":         fmt.Sprintf("sandbox:x:%d:\nnogroup:x:65534:\n", innerID),
	"/etc/hosts":         "127.0.0.1 localhost " + hostName + "\n::1 localhost\n",
	"/etc/hostname":      hostName + "\n",
	"/etc/resolv.conf":   "",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// hostFolder are the steps that show a folder of the host read-only, or repeat it where it is a link; none if the host
// doesn't have it.
func hostFolder(path, target string) []step {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil
	case info.Mode()&os.ModeSymlink != 0:
		link, err := os.Readlink(path)
		if err != nil {
			return nil
		}
		return []step{makeDir(filepath.Dir(target)), makeLink(link, target)}
	case info.IsDir():
		return []step{makeDir(target), bind(path, target), restrict(target, readOnly)}
	}
	return nil
}

func sizeOf(files ...*os.File) (int64, error) {
	var total int64
	for _, file := range files {
		info, err := file.Stat()
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

// copyExecutable copies source, whatever its mode, to a new file of that mode.
func copyExecutable(source *os.File, target string, mode os.FileMode) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.NewSectionReader(source, 0, info.Size()))
	if err == nil {
		err = file.Chmod(mode)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}
