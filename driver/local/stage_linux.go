package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// The launcher builds, once, in its mount namespace:
//
//	/            a tmpfs: all that the launcher keeps of the host is /proc
//	/proc        the host's, for the uid maps, and because a user namespace may mount a proc only where one is visible
//	/sandbox     the root of every sandbox, read-only
//	/mounts      what sandboxes have mounted of the host, by numbers; internal/setup/root_linux.go says how they get it
//	/temporary   the client's, which has it open: what it makes there is gone with it and the launcher, however they end
//
// Each sandbox begins with a copy of these mounts. Its user namespace is below the launcher's, so the kernel locks
// their attributes: even a sandbox's init, with all its capabilities, can't make them writable or look beneath.

const temporary = "/temporary"

// stageSteps are the steps that build the above. program and worker are read from their start. runsc is nil without gVisor.
func stageSteps(program, worker, runsc *os.File) []setup.Step {
	const base = "/tmp" // any folder that is always there; nobody else sees what is mounted on it
	root := base + setup.StageRoot
	in := func(path string) string { return root + path }

	steps := []setup.Step{
		{Name: "make mounts private", Do: func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		setup.Tmpfs(base, 0o755, 1, 4096), // for some thousand mounts
		setup.MakeDir(base + setup.MountsFolder), setup.MakeDir(base + setup.OwnRoot), setup.MakeDir(base + temporary),
		setup.MakeDir(base + "/proc"),
		setup.Bind("/proc", base+"/proc"),
		setup.MakeDir(root),
		{Name: "mount tmpfs for the sandbox root", Do: func() error {
			size, err := sizeOf(program, worker)
			if err != nil {
				return err
			}
			data := fmt.Sprintf("mode=0755,size=%d,nr_inodes=4096", size+16<<20)
			// Each start executes what lies there twice or three times. In huge pages that takes a tenth less of the whole start's processor time.
			err = unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data+",huge=within_size")
			if errors.Is(err, unix.EINVAL) { // a kernel that has none
				err = unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data)
			}
			return err
		}},
		setup.MakeDir(in("/proc")), setup.MakeDir(in("/tmp")), setup.MakeDir(in(setup.WorkFolder)), setup.MakeDir(in(setup.EmptyFolder)),
		setup.MakeDir(in("/dev/shm")), setup.MakeDir(in("/etc")), setup.MakeDir(in("/var")), setup.MakeDir(in("/run")),
		{Name: "copy the worker", Do: func() error { return copyExecutable(worker, in(setup.WorkerPath), 0o555) }},
		// Nobody can read the agent's. So it is undumpable from its execution on, when a worker, which is the same user, runs
		// already; it can't be the same file where it is the same program. gVisor, whose process 1 is another, executes what it can read.
		{Name: "copy the program", Do: func() error {
			mode := os.FileMode(0o111)
			if runsc != nil {
				mode = 0o555
			}
			return copyExecutable(program, in(setup.AgentPath), mode)
		}},
		setup.MakeLink("/tmp", in("/var/tmp")),
		setup.MakeLink("/proc/self/fd", in("/dev/fd")),
		setup.MakeLink("/proc/self/fd/0", in("/dev/stdin")),
		setup.MakeLink("/proc/self/fd/1", in("/dev/stdout")),
		setup.MakeLink("/proc/self/fd/2", in("/dev/stderr")),
		setup.MakeDir(in(setup.Terminals)), setup.MakeLink("pts/ptmx", in("/dev/ptmx")), // each sandbox mounts its own there
	}
	// tty is, for whoever opens it, the own terminal.
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		steps = append(steps,
			setup.MakeFile(in("/dev/"+name), ""),
			setup.Bind("/dev/"+name, in("/dev/"+name)),
			setup.Restrict(in("/dev/"+name), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC))
	}
	for _, path := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		steps = append(steps, hostFolder(path, in(path))...)
	}
	// Images of containers keep applications there, with all that belongs to them.
	if info, err := os.Stat("/usr/src"); err == nil && info.IsDir() {
		steps = append(steps, setup.Bind(in(setup.EmptyFolder), in("/usr/src")))
	}
	for _, path := range []string{"/etc/alternatives", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates"} {
		steps = append(steps, hostFolder(path, in(path))...)
	}
	for path, content := range etcFiles {
		steps = append(steps, setup.MakeFile(in(path), content))
	}
	for _, path := range []string{"/etc/localtime", "/etc/ld.so.cache"} {
		if content, err := os.ReadFile(path); err == nil && len(content) <= 4<<20 {
			steps = append(steps, setup.MakeFile(in(path), string(content)))
		}
	}
	if runsc != nil {
		steps = append(steps, gvisorStageSteps(base, runsc)...)
	}
	steps = append(steps, setup.Step{Name: "make the sandbox root read-only", Do: func() error { return setup.MakeReadOnly(root) }})
	return append(steps, setup.EnterRoot(base)...)
}

// etcFiles is what every sandbox has in /etc beside the host's certificates, time zone and linker cache.
var etcFiles = map[string]string{
	"/etc/passwd":        fmt.Sprintf("sandbox:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", setup.InnerID, setup.InnerID, setup.WorkFolder),
	"/etc/group":         fmt.Sprintf("sandbox:x:%d:\nnogroup:x:65534:\n", setup.InnerID),
	"/etc/hosts":         "127.0.0.1 localhost " + setup.HostName + "\n::1 localhost\n",
	"/etc/hostname":      setup.HostName + "\n",
	"/etc/resolv.conf":   "",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// hostFolder are the steps that show a folder of the host read-only, or repeat it where it is a link; none if the host
// doesn't have it.
func hostFolder(path, target string) []setup.Step {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil
	case info.Mode()&os.ModeSymlink != 0:
		link, err := os.Readlink(path)
		if err != nil {
			return nil
		}
		return []setup.Step{setup.MakeDir(filepath.Dir(target)), setup.MakeLink(link, target)}
	case info.IsDir():
		return []setup.Step{setup.MakeDir(target), setup.Bind(path, target), setup.Restrict(target, setup.ReadOnly)}
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
	err = file.Truncate(info.Size()) // a huge page is had for what lies wholly within the file when it is written
	if err == nil {
		_, err = io.Copy(file, io.NewSectionReader(source, 0, info.Size()))
	}
	if err == nil {
		err = file.Chmod(mode)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}
