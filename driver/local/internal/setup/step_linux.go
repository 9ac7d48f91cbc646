package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// A Step is one named part of setting up, so that an error says which part failed.
type Step struct {
	Name string
	Do   func() error
}

// BeforeStep is, if it isn't nil, called with the name of each step. Only a test sets it.
var BeforeStep func(name string)

// Do does the steps in order and returns the name of the one that failed.
func Do(steps []Step) (failed string, err error) {
	for _, s := range steps {
		if BeforeStep != nil {
			BeforeStep(s.Name)
		}
		if err := s.Do(); err != nil {
			// The step says what was being done to which path; only the cause is missing.
			if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
				err = pathErr.Err
			}
			return s.Name, err
		}
	}
	return "", nil
}

// Mount is a step that mounts a new file system.
func Mount(fstype, target string, flags uintptr, data string) Step {
	return Step{"mount " + fstype + " on " + target, func() error {
		return unix.Mount(fstype, target, fstype, flags, data)
	}}
}

// Tmpfs is a step that mounts an empty, writable, limited folder.
func Tmpfs(target string, mode fs.FileMode, sizeMiB, inodes int) Step {
	data := fmt.Sprintf("mode=%04o,size=%dm,nr_inodes=%d", mode, sizeMiB, inodes)
	return Mount("tmpfs", target, unix.MS_NOSUID|unix.MS_NODEV, data)
}

// Bind is a step that shows source, with what is mounted below it, at target as well.
func Bind(source, target string) Step {
	return Step{"bind " + source, func() error {
		return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}}
}

// Restrict is a step that adds attributes to the mount at target and to all mounts below it.
func Restrict(target string, attributes uint64) Step {
	return Step{"restrict " + target, func() error {
		return unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attributes})
	}}
}

// MakeDir is a step that makes a folder and those above it.
func MakeDir(path string) Step {
	return Step{"make folder " + path, func() error { return os.MkdirAll(path, 0o755) }}
}

// MakeFile is a step that makes a file, and the folders above it.
func MakeFile(target, content string) Step {
	return Step{"make file " + target, func() error {
		if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, []byte(content), 0o644)
	}}
}

// MakeLink is a step that makes a symbolic link.
func MakeLink(target, path string) Step {
	return Step{"make link " + path, func() error { return os.Symlink(target, path) }}
}

// EnterRoot are the steps that make the folder at path, which must be a mount point, the root, and let go of what was
// the root before.
func EnterRoot(path string) []Step {
	return []Step{
		{"change to " + path, func() error { return os.Chdir(path) }},
		{"change root", func() error { return unix.PivotRoot(".", ".") }},
		// The old root is now mounted over the new one.
		{"detach old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"change to root", func() error { return os.Chdir("/") }},
	}
}
