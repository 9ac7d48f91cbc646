package escape

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// files are attempts at what the host has in its file systems.
var files = []Attempt{
	{"read a host file", func(t Targets) error { return contains(t.HostFile, t.Secret) }},
	{"read the shadow file", func(Targets) error { return readable("/etc/shadow") }},
	{"list home folders", func(Targets) error { return firstEntry("/home/*", "/root/.[a-z]*") }},
	{"list applications in /usr/src", func(Targets) error { return firstEntry("/usr/src/*") }},
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
	{"read a host file through ..", func(t Targets) error { return contains(strings.Repeat("/..", 20)+t.HostFile, t.Secret) }},
	{"read a host file through /proc/self/root", func(t Targets) error { return contains("/proc/self/root/.."+t.HostFile, t.Secret) }},
	{"read a host file through a link", func(t Targets) error {
		link := temporary("link")
		if err := os.Symlink(t.HostFile, link); err != nil {
			return err
		}
		defer func() { _ = os.Remove(link) }()
		return contains(link, t.Secret)
	}},
	{"read a host file from an open folder", func(t Targets) error {
		folder, err := unix.Open("/", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Openat(folder, "../../.."+t.HostFile, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}},
	{"use an inherited folder", func(t Targets) error {
		links, _ := filepath.Glob("/proc/self/fd/*")
		for _, link := range links {
			if contains(link+strings.Repeat("/..", 20)+t.HostFile, t.Secret) == nil || contains(link+"/"+filepath.Base(t.HostFile), t.Secret) == nil {
				return nil
			}
		}
		return errNotThere
	}},
	{"link to process 1's program", func(t Targets) error {
		link := temporary("hard")
		if err := os.Link(t.Program, link); err != nil {
			return err
		}
		return os.Remove(link)
	}},
	// What can't be read can't be traced either, from the start.
	{"read process 1's program", func(t Targets) error { return readable(t.Program) }},
	{"change the mode of the own program", func(Targets) error { return os.Chmod("/proc/self/exe", 0o755) }},
	{"write to the own program through a descriptor", func(Targets) error { return reopen("/proc/self/exe", unix.O_WRONLY, unix.ETXTBSY) }},
	{"write to process 1's program through a descriptor", func(t Targets) error {
		return reopen(fmt.Sprintf("/proc/%d/exe", t.Init), unix.O_WRONLY, unix.ETXTBSY)
	}},
	{"have a mount that honours setuid", func(Targets) error {
		return mountedWithout(unix.ST_NOSUID, os.TempDir(), "/work", "/dev/shm", "/", "/usr", "/proc")
	}},
	{"have a writable mount that honours devices", func(Targets) error {
		return mountedWithout(unix.ST_NODEV, os.TempDir(), "/work", "/dev/shm")
	}},
	{"watch the use of host files", func(Targets) error {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return err
		}
		_, err = unix.InotifyAddWatch(fd, "/usr/bin", unix.IN_OPEN)
		return err
	}},
	{"watch a host folder by F_NOTIFY", func(Targets) error {
		fd, err := unix.Open("/usr/bin", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_NOTIFY, 1) // DN_ACCESS
		return err
	}},
	// To drop it again and again, and see when it is back, tells when the host uses it.
	{"drop a host file from the page cache", func(Targets) error {
		return withHostFile(func(fd int) error {
			if unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) == nil {
				return nil
			}
			if _, err := unix.Preadv2(fd, [][]byte{make([]byte, 1)}, 0, unix.RWF_DONTCACHE); err == nil {
				return nil // what it had to read for that is gone again
			}
			return withHostPage(fd, func(page []byte) error { return unix.Madvise(page, unix.MADV_PAGEOUT) })
		})
	}},
	{"see whether a host file is in the page cache", func(Targets) error {
		return withHostFile(func(fd int) error {
			if _, err := unix.Preadv2(fd, [][]byte{make([]byte, 1)}, 0, unix.RWF_NOWAIT); err == nil || err == unix.EAGAIN {
				return nil
			}
			if withHostPage(fd, func(page []byte) error {
				var in [1]byte
				return errnoOf(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&page[0])), uintptr(len(page)), uintptr(unsafe.Pointer(&in)))
			}) == nil {
				return nil
			}
			var span, counts [5]uint64
			return errnoOf(unix.SYS_CACHESTAT, uintptr(fd), uintptr(unsafe.Pointer(&span)), uintptr(unsafe.Pointer(&counts)), 0)
		})
	}},
	{"lock a host file", func(Targets) error {
		fd, err := unix.Open("/usr/bin/env", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB)
	}},
	{"lease a shared file", func(Targets) error {
		fd, err := unix.Open("/etc/hosts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	}},
	{"fanotify", func(Targets) error {
		_, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC, unix.O_RDONLY)
		return err
	}},
	{"name_to_handle_at", func(Targets) error {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, os.TempDir(), 0)
		return err
	}},
}

func withHostFile(do func(fd int) error) error {
	fd, err := unix.Open("/usr/bin/env", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return do(fd)
}

func withHostPage(fd int, do func(page []byte) error) error {
	page, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(page) }()
	return do(page)
}

func temporary(name string) string {
	return filepath.Join(os.TempDir(), name+strconv.Itoa(os.Getpid()))
}

// reopen opens a file by way of a descriptor that permits nothing.
func reopen(path string, flags int, own error) error {
	fd, err := unix.Open(path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	_, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
	return reachable(err, own)
}

// mountedWithout looks for a mount that lacks the flag.
func mountedWithout(flag int64, paths ...string) error {
	for _, path := range paths {
		var stat unix.Statfs_t
		if unix.Statfs(path, &stat) == nil && stat.Flags&flag == 0 {
			return nil
		}
	}
	return errNotThere
}
