package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A step is one named part of setting up, so that an error says which part failed.
type step struct {
	name string
	do   func() error
}

// beforeStep, if it isn't nil, is called with the name of each step. Only a test sets it.
var beforeStep func(name string)

// run does the steps in order and returns the name of the one that failed.
func run(steps []step) (failed string, err error) {
	for _, s := range steps {
		if beforeStep != nil {
			beforeStep(s.name)
		}
		if err := s.do(); err != nil {
			// The step says what was being done to which path; only the cause is missing.
			if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
				err = pathErr.Err
			}
			return s.name, err
		}
	}
	return "", nil
}

// mount is a step that mounts a new file system.
func mount(fstype, target string, flags uintptr, data string) step {
	return step{"mount " + fstype + " on " + target, func() error {
		return unix.Mount(fstype, target, fstype, flags, data)
	}}
}

// tmpfs is a step that mounts an empty, writable, limited folder.
func tmpfs(target string, mode fs.FileMode, sizeMiB, inodes int) step {
	data := fmt.Sprintf("mode=%04o,size=%dm,nr_inodes=%d", mode, sizeMiB, inodes)
	return mount("tmpfs", target, unix.MS_NOSUID|unix.MS_NODEV, data)
}

// bind is a step that shows source, with what is mounted below it, at target as well.
func bind(source, target string) step {
	return step{"bind " + source, func() error {
		return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}}
}

// restrict is a step that adds attributes to the mount at target and to all mounts below it.
func restrict(target string, attributes uint64) step {
	return step{"restrict " + target, func() error {
		return unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attributes})
	}}
}

func makeDir(path string) step {
	return step{"make folder " + path, func() error { return os.MkdirAll(path, 0o755) }}
}

func makeFile(path, content string) step {
	return step{"make file " + path, func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(content), 0o644)
	}}
}

func makeLink(target, path string) step {
	return step{"make link " + path, func() error { return os.Symlink(target, path) }}
}

// enterRoot are the steps that make the folder at path, which must be a mount point, the root, and let go of what was
// the root before.
func enterRoot(path string) []step {
	return []step{
		{"change to " + path, func() error { return os.Chdir(path) }},
		{"change root", func() error { return unix.PivotRoot(".", ".") }},
		// The old root is now mounted over the new one.
		{"detach old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"change to root", func() error { return os.Chdir("/") }},
	}
}
