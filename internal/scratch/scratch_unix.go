//go:build unix

// Package scratch makes folders for the sandboxes of a session, and removes what sessions of programs that were killed have left. Its audience is
// drivers.
package scratch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Folders are a session's: one in the folder for temporary files, which only this user can enter, with one for each sandbox in it. The session keeps a lock on it, which
// the kernel gives up with the program, however that ends. So a folder that can be locked belongs to nobody: a process id could by now
// be another's, or be one of another container with the same folder for temporary files. All paths are opened below folders that are
// open, and never through links that lead out of those.
type Folders struct {
	temporary *os.Root
	name      string // in temporary
	path      string
	own       *os.Root
	lock      *os.File
}

// Make removes what programs of this user that were killed have left, and makes the session's folder. Its name begins with the prefix, which is
// the driver's own.
func Make(ctx context.Context, prefix string, logger *slog.Logger) (*Folders, error) {
	path, err := filepath.Abs(os.TempDir())
	if err != nil {
		return nil, err
	}
	temporary, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	removeLeft(ctx, temporary, prefix, logger)
	f := &Folders{temporary: temporary}
	for {
		f.name = prefix + strings.ToLower(rand.Text())
		f.path = filepath.Join(path, f.name)
		if err = temporary.Mkdir(f.name, 0o700); err != nil {
			break
		}
		// Before it is locked another session may take it for one that was left.
		if f.own, f.lock, err = lockFolder(temporary, f.name); !errors.Is(err, errInUse) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, temporary.Close())
	}
	return f, nil
}

// errInUse is of a folder that is another session's, or another user's.
var errInUse = errors.New("it is in use")

// lockFolder opens and locks a folder of this user, if it is there, and if nobody else has locked it.
func lockFolder(temporary *os.Root, name string) (own *os.Root, lock *os.File, err error) {
	named, err := temporary.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if status, ok := named.Sys().(*syscall.Stat_t); !named.IsDir() || !ok || int(status.Uid) != os.Geteuid() {
		return nil, nil, errInUse
	}
	defer func() {
		if err != nil && own != nil {
			_ = own.Close()
		}
		if err != nil && lock != nil {
			_ = lock.Close()
		}
	}()
	if own, err = temporary.OpenRoot(name); err != nil {
		return own, nil, err
	}
	if lock, err = own.Open("."); err != nil {
		return own, lock, err
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errInUse
		}
		return own, lock, err
	}
	// Whoever had the lock before may have removed the folder.
	opened, err := lock.Stat()
	if err != nil {
		return own, lock, err
	}
	if named, err = temporary.Lstat(name); err == nil && !os.SameFile(named, opened) {
		err = errInUse
	}
	return own, lock, err
}

// removeLeft removes the folders whose sessions' programs are gone.
func removeLeft(ctx context.Context, temporary *os.Root, prefix string, logger *slog.Logger) {
	folder, err := temporary.Open(".")
	if err != nil {
		return // not to be listed
	}
	names, _ := folder.Readdirnames(-1)
	_ = folder.Close()
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) || ctx.Err() != nil {
			continue
		}
		own, lock, err := lockFolder(temporary, name)
		if err != nil {
			continue
		}
		if err := removeAll(temporary, name); err != nil {
			logger.Warn("what a session of a program that was killed has left can't be removed", slog.Any("error", err))
		}
		_, _ = own.Close(), lock.Close()
	}
}

// Add makes a sandbox's folder and returns its path.
func (f *Folders) Add(id string) (string, error) {
	return filepath.Join(f.path, id), f.own.Mkdir(id, 0o700)
}

// Remove removes a sandbox's folder with all that is in it. One that is not there is no error.
func (f *Folders) Remove(id string) error { return removeAll(f.own, id) }

// Close removes all that is left. It may be called again if that fails.
func (f *Folders) Close() error {
	if err := removeAll(f.temporary, f.name); err != nil {
		return err
	}
	return errors.Join(f.own.Close(), f.lock.Close(), f.temporary.Close())
}

// removeAll removes a file or folder and all that is in it, also from folders in which nobody may write, such as a cache of Go modules.
func removeAll(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) {
		_ = fs.WalkDir(root.FS(), name, func(path string, entry fs.DirEntry, _ error) error {
			if entry != nil && entry.IsDir() {
				_ = root.Chmod(path, 0o700) // what can't be changed shows in the next error
			}
			return nil
		})
		err = root.RemoveAll(name)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Join(root.Name(), name), err)
	}
	return nil
}
