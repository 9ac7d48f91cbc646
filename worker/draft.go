package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// unfinished has the names of files that are to take the place of others, from before they are there until they are gone. Listings leave
// them out: they are nobody's, and a copy of one would be half a file. Names are random: one that another sandbox has left, in a mount, is copied with the rest,
// and must not be that of a file which is being written beside it.
var unfinished sync.Map

// drafts are the files of one worker that are to take the place of others. In a folder of the caller's machine that is mounted, nobody else would remove them.
type drafts struct {
	use   sync.RWMutex // for reading while one is made, or takes its place; for good after end
	paths sync.Map
	once  sync.Once
}

// end removes them. No other is made then, and none takes its place: who wants to waits for the end of the sandbox.
func (d *drafts) end() {
	d.once.Do(func() {
		d.use.Lock()
		d.paths.Range(func(path, _ any) bool {
			_ = os.Remove(path.(string))
			return true
		})
	})
}

// make has do make a draft.
func (d *drafts) make(path string, do func() error) error {
	d.use.RLock()
	defer d.use.RUnlock()
	err := do()
	if err == nil {
		d.paths.Store(path, true)
	}
	return err
}

// place gives a draft, or a link, its place.
func (d *drafts) place(path, target string) error {
	d.use.RLock()
	defer d.use.RUnlock()
	err := os.Rename(path, target)
	if err == nil {
		d.paths.Delete(path)
	}
	return err
}

func unfinishedName() string {
	name := fmt.Sprintf(".sbx-%016x", rand.Uint64())
	unfinished.Store(name, true)
	return name
}

// replaceLink makes a link, which takes the place of one that is there, and of nothing else. At no time is there none.
func (d *drafts) replaceLink(target, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Symlink(target, path)
		if !errors.Is(err, fs.ErrExist) { // or it has been made since
			return err
		}
		if info, err = os.Lstat(path); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: syscall.EEXIST}
	}
	name := unfinishedName()
	defer unfinished.Delete(name)
	temporary := filepath.Join(filepath.Dir(path), name)
	if err := d.make(temporary, func() error { return os.Symlink(target, temporary) }); err != nil {
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: errors.Unwrap(err)} // nobody knows the other
	}
	if err := d.place(temporary, path); err != nil {
		_ = os.Remove(temporary)
		d.paths.Delete(temporary)
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: errors.Unwrap(err)}
	}
	return nil
}
