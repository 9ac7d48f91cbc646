package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A sandbox without mounts has the stage's root as it is. One with mounts has a root of its own: an empty file system that shows the
// entries of the stage's, each mounted, and has places for the mounts among them.

const (
	mountsFolder = "/mounts" // of the launcher: mounts by their numbers
	ownRoot      = "/own"    // of the launcher: where the root of a sandbox with mounts comes
)

func mountPath(number int) string { return mountsFolder + "/" + strconv.Itoa(number) }

// ownRootSteps make that root. The mounts' places are in it, but not yet the mounts.
func ownRootSteps(mounts []placed) []step {
	return []step{
		tmpfs(ownRoot, 0o755, 1, 4096),
		{"copy the sandbox root", func() error { return mirror("", mounts) }},
		{"make places for mounts", func() error { return makePoints(ownRoot, mounts) }},
	}
}

// mirror shows what the stage's root has in a folder, given by its path in the root, in the own root. Folders that places are in are made anew.
func mirror(folder string, mounts []placed) error {
	entries, err := os.ReadDir(stageRoot + folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := folder + "/" + entry.Name()
		target, above := ownRoot+path, false
		for _, m := range mounts {
			above = above || strings.HasPrefix(m.Target, path+"/")
		}
		switch {
		case isTarget(path, mounts):
		case above && !entry.IsDir():
			return fmt.Errorf("a mount's target is below %s, which is no folder in the sandbox: choose another target", path)
		case above:
			err = os.Mkdir(target, 0o755)
			if err == nil {
				err = mirror(path, mounts)
			}
		case entry.Type()&os.ModeSymlink != 0:
			var link string
			if link, err = os.Readlink(stageRoot + path); err == nil {
				err = os.Symlink(link, target)
			}
		default:
			if err = makePoint(target, entry.IsDir()); err == nil {
				err = unix.Mount(stageRoot+path, target, "", unix.MS_BIND|unix.MS_REC, "")
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func isTarget(path string, mounts []placed) bool {
	for _, m := range mounts {
		if m.Target == path {
			return true
		}
	}
	return false
}

// makePoints makes the places that aren't there.
func makePoints(root string, mounts []placed) error {
	for _, m := range mounts {
		if _, err := os.Lstat(root + m.Target); err == nil {
			continue
		}
		if err := makePoint(root+m.Target, m.Folder); err != nil {
			return err
		}
	}
	return nil
}

// makePoint makes an empty folder or file to mount on, with the folders above it.
func makePoint(path string, folder bool) error {
	if folder {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// mountSteps mount what is the sandbox's own, in the current folder, which is its root, and end changes of that root.
func mountSteps(mounts []placed) []step {
	steps := []step{{"make places for mounts", func() error { return makePoints(".", mounts) }}} // in what has been mounted since
	for _, m := range mounts {
		steps = append(steps, bind(mountPath(m.Number), m.Target[1:]))
	}
	return append(steps, step{"make the sandbox root read-only", func() error { return makeReadOnly(".") }})
}

// makeReadOnly makes the mount at path read-only, and the file system behind it.
func makeReadOnly(path string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return err
	}
	return unix.Mount("", path, "", unix.MS_REMOUNT|flags, "")
}
