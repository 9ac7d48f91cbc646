package sbx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// isOpen reports whether a path leads through /proc to what a process has open, as /dev/stdout does. A file that took its place would not be that.
func isOpen(path string) bool {
	for range 40 { // links, as Linux has it
		folder, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return false
		}
		if strings.HasPrefix(folder, "/proc/") {
			return true
		}
		link, err := os.Readlink(filepath.Join(folder, filepath.Base(path)))
		if err != nil {
			return false
		}
		if path = link; !filepath.IsAbs(path) {
			path = filepath.Join(folder, link)
		}
	}
	return false
}

// CopyFrom copies a file or a whole folder out of the sandbox to this machine: target becomes the copy, as with [Sandbox.CopyTo], permissions included. What
// is written is checked against size and checksum, and takes its place only when it is whole. Runs of zeros become holes.
//
// Nothing is written outside of target, whatever the sandbox says: a link that leads out of the tree, or could, is refused, as devices, sockets and pipes
// are. The rest is copied then, and the error wraps [ErrRefused] for each. What is removed from the folder meanwhile is left out; a file that is written
// meanwhile is copied as it was read. A device, socket or pipe of this machine is not replaced, which is an error. If target is a link to a file, that file
// becomes the copy; if it is a link that leads nowhere, nothing does, which is an error. At most [MaxCopy] bytes are copied. A program that is killed meanwhile leaves files whose names begin with .sbx-, one beside the target, or
// some in it. Use what comes from untrusted code as such: the copy may hold any names and contents.
func (sb *Sandbox) CopyFrom(ctx context.Context, source, target string) error {
	fail := func(err error) error { return sb.fail("copy from the sandbox", err) }
	info, err := sb.Stat(ctx, source)
	if err != nil {
		return err
	}
	if target == "" { // which is a variable that was not set, and not this program's folder
		return fail(&fs.PathError{Op: "open", Path: target, Err: syscall.ENOENT})
	}
	if !info.IsDir() && os.IsPathSeparator(target[len(target)-1]) {
		return fail(&fs.PathError{Op: "write", Path: target, Err: syscall.EISDIR}) // as package os has it, also where none is
	}
	target = filepath.Clean(target)
	if !info.IsDir() {
		// A link that the caller names is followed: what it leads to may be a device.
		if here, err := os.Stat(target); err == nil {
			switch {
			case here.IsDir():
				return fail(&fs.PathError{Op: "write", Path: target, Err: syscall.EISDIR})
			case !here.Mode().IsRegular() || isOpen(target):
				return fail(&fs.PathError{Op: "write", Path: target, Err: errDevice})
			}
			if target, err = filepath.EvalSymlinks(target); err != nil {
				return fail(err)
			}
		} else if link, linkErr := os.Lstat(target); linkErr == nil && link.Mode()&fs.ModeSymlink != 0 {
			if errors.Is(err, fs.ErrNotExist) { // and not that this user may not look, say
				err = &fs.PathError{Op: "write", Path: target, Err: errLeadsNowhere}
			}
			return fail(err)
		}
		root, err := os.OpenRoot(filepath.Dir(target))
		if err != nil {
			return fail(err)
		}
		defer root.Close()
		down := newDownload(sb, root, path.Dir(source))
		if err := down.file(ctx, source, filepath.Base(target), info.Size()); err != nil {
			return sb.fileError("copy", source, err)
		}
		return nil
	}
	if here, ok := sb.here(source); ok && within(target, here) {
		return fail(&fs.PathError{Op: "copy", Path: source, Err: errIntoItself})
	}
	made, err := makeTarget(target, info.Mode())
	if err != nil {
		return fail(err)
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	down := newDownload(sb, root, source)
	if made {
		down.modes = append(down.modes, folderMode{".", info.Mode().Perm()})
	}
	err = besides(ctx, func(ctx context.Context, beside *errgroup.Group) error {
		down.beside = beside
		return down.folder(ctx, ".", 0)
	})
	for _, name := range down.left { // for lack of descriptors, which are free now
		_ = root.Remove(name)
	}
	// Last, so that nothing is written through them.
	for _, link := range down.links {
		if err != nil {
			break
		}
		err = down.link(link)
	}
	for _, folder := range slices.Backward(down.modes) { // the innermost first
		if chmodErr := root.Chmod(folder.name, folder.mode); err == nil {
			err = chmodErr
		}
	}
	if err = errors.Join(err, errors.Join(down.refused...)); err != nil && !errors.As(err, new(*SandboxError)) {
		err = fail(err)
	}
	return err
}

// makeTarget is that of upload, for a folder of this machine.
func makeTarget(target string, mode fs.FileMode) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
		return false, err
	}
	if err := os.Mkdir(target, mode.Perm()|0o700); !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	return false, os.MkdirAll(target, 0o777) // an error if it is no folder
}

// download is one CopyFrom.
type download struct {
	sb      *Sandbox
	root    *os.Root
	source  string
	beside  *errgroup.Group
	rest    atomic.Int64 // of MaxCopy
	entries int
	links   []link
	modes   []folderMode

	mu      sync.Mutex
	refused []error
	left    []string // files that could not be removed
}

func newDownload(sb *Sandbox, root *os.Root, source string) *download {
	d := &download{sb: sb, root: root, source: source}
	d.rest.Store(MaxCopy)
	return d
}

func (d *download) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = append(d.refused, err)
}

func (d *download) leave(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = append(d.left, name)
}

type link struct{ name, to string }

func (d *download) folder(ctx context.Context, name string, depth int) error {
	if depth > maxDepth {
		return &fs.PathError{Op: "copy", Path: path.Join(d.source, name), Err: fmt.Errorf("more than %d folders deep", maxDepth)}
	}
	entries, err := d.sb.ReadDir(ctx, path.Join(d.source, name))
	switch {
	case depth > 0 && gone(ctx, err):
		return nil
	case err != nil:
		return err
	}
	if d.entries += len(entries); d.entries > maxEntries {
		return &fs.PathError{Op: "copy", Path: path.Join(d.source, name), Err: fmt.Errorf("more than %d files", maxEntries)}
	}
	for _, entry := range entries {
		if err := d.entry(ctx, path.Join(name, entry.Name()), entry, depth); err != nil {
			return err
		}
	}
	return nil
}

func (d *download) entry(ctx context.Context, name string, entry fs.DirEntry, depth int) error {
	if ctx.Err() != nil { // as in upload
		return contextError(ctx)
	}
	switch entry.Type() {
	case fs.ModeDir:
		// A folder here must be one, and no link: what is below it would be elsewhere.
		if err := d.root.Mkdir(name, 0o700); err != nil {
			info, statErr := d.root.Lstat(name)
			switch {
			case statErr != nil:
				return d.here(name, err)
			case !info.IsDir():
				return d.here(name, errInTheWay)
			}
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		d.modes = append(d.modes, folderMode{name, info.Mode().Perm()})
		return d.folder(ctx, name, depth+1)
	case fs.ModeSymlink:
		to, err := d.sb.Readlink(ctx, path.Join(d.source, name))
		switch {
		case gone(ctx, err):
			return nil
		case err != nil:
			return err
		}
		if why := leadsOut(name, to); why != "" {
			d.refuse(&fs.PathError{Op: "copy", Path: path.Join(d.source, name), Err: fmt.Errorf("%w: it is a link that %s", ErrRefused, why)})
			return nil
		}
		d.links = append(d.links, link{name, to})
		return nil
	case 0:
		info, err := entry.Info()
		if err != nil {
			return err
		}
		copyIt := func() error {
			switch err := d.file(ctx, path.Join(d.source, name), name, info.Size()); {
			case err == nil, errors.As(err, new(*goneError)):
			case errors.Is(err, ErrRefused): // it is another by now
				d.refuse(err)
			default:
				return d.sb.fileError("copy", path.Join(d.source, name), err)
			}
			return nil
		}
		if info.Size() > smallFile {
			return copyIt()
		}
		d.beside.Go(func() error { return d.sb.copyBeside(ctx, copyIt) })
		return nil
	}
	d.refuse(refusal("copy", path.Join(d.source, name), entry.Type()))
	return nil
}

// leadsOut says why a link could lead out of the tree in which it has the name; empty if it can't. All folders of the tree are real ones.
func leadsOut(name, to string) string {
	switch {
	case to == "" || len(to) >= maxPathLength || strings.Contains(to, "\x00"):
		return "leads nowhere"
	case path.IsAbs(to) || filepath.IsAbs(to) || filepath.VolumeName(to) != "" || strings.Contains(to, `\`):
		return fmt.Sprintf("leads to %.100q, which is no relative path", to)
	}
	depth := strings.Count(name, "/") // of the folder that the link is in
	down := false
	for part := range strings.SplitSeq(to, "/") {
		switch part {
		case "", ".":
		case "..":
			if down { // what is before may be a link to a place that is less deep
				return fmt.Sprintf("leads to %.100q, with \"..\" behind a name", to)
			}
			if depth--; depth < 0 {
				return fmt.Sprintf("leads to %.100q, outside of the folder", to)
			}
		default:
			down = true
		}
	}
	return ""
}

// link makes a link, which takes the place of one that is there, and of nothing else. At no time is there none.
func (d *download) link(l link) error {
	if info, err := d.root.Lstat(l.name); err == nil && info.Mode().Type() != fs.ModeSymlink {
		return d.here(l.name, errInTheWay)
	}
	temporary := temporaryName(l.name)
	err := d.root.Symlink(l.to, temporary)
	if err == nil {
		if err = d.root.Rename(temporary, l.name); err != nil {
			_ = d.root.Remove(temporary)
		}
	}
	if err != nil {
		return d.here(l.name, err)
	}
	return nil
}

// temporaryName is what a file is called until it is whole. It is random: what is copied may have any name, and must not take the place of a file that is being
// copied beside it.
func temporaryName(name string) string {
	return filepath.Join(filepath.Dir(name), fmt.Sprintf(".sbx-%016x", rand.Uint64()))
}

// gone reports whether the sandbox says that something is not there. The cause of a caller's context can be anything.
func gone(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errors.Is(err, fs.ErrNotExist) && errors.As(err, new(*sandboxFailure))
}

// goneError says that a file is not in the sandbox any more, and not that something is missing here.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

// file copies one file, which had that size, to a name that it takes when it is whole.
func (d *download) file(ctx context.Context, source, name string, size int64) (err error) {
	// What no file can or may replace is found before all of it has come.
	if info, err := d.root.Lstat(name); err == nil {
		switch info.Mode().Type() {
		case 0, fs.ModeSymlink:
		case fs.ModeDir:
			return d.here(name, syscall.EISDIR)
		default: // this machine's /dev/null, say
			return d.here(name, errDevice)
		}
	}
	f, err := d.sb.opening(ctx, &wirepb.Open{Path: []byte(source), Read: true})
	if err != nil {
		return err
	}
	defer f.end()
	if size <= smallFile {
		err = f.askFor(copyAhead)
	}
	var info *wirepb.Info
	if err == nil {
		info, err = f.opened()
	}
	switch {
	case gone(ctx, err):
		return &goneError{err}
	case err != nil:
		return err
	}
	if info.GetSize() > d.rest.Load() { // which would take a while to come
		return errCopyTooLong
	}
	var to *os.File
	temporary := ""
	for to == nil {
		temporary = temporaryName(name)
		to, err = d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return d.here(name, err)
		}
	}
	defer func() {
		if err != nil {
			_ = to.Close()
			if d.root.Remove(temporary) != nil {
				d.leave(temporary)
			}
		}
	}()
	if !f.coming {
		f.takeWindows(info.GetSize())
		defer f.lent.free()
	}
	if err := d.content(f, to, name); err != nil {
		return err
	}
	if err := to.Chmod(fs.FileMode(info.GetMode()).Perm()); err != nil {
		return d.here(name, err)
	}
	if err := to.Close(); err != nil {
		return d.here(name, err)
	}
	if err := d.root.Rename(temporary, name); err != nil {
		return d.here(name, err)
	}
	return nil
}

// here is an error about a file of this machine, with the name that it is to have.
func (d *download) here(name string, err error) error {
	return &fs.PathError{Op: "write", Path: filepath.Join(d.root.Name(), name), Err: unnamed(err)}
}

// content copies what is in a file, and leaves holes for zeros.
func (d *download) content(from *File, to *os.File, name string) error {
	size, sum := int64(0), uint32(0)
	for !from.atEnd || from.coming {
		data, err := from.next()
		if err != nil {
			return err
		}
		if d.rest.Add(-int64(len(data))) < 0 {
			return errCopyTooLong
		}
		if !isZero(data) {
			if _, err := to.WriteAt(data, size); err != nil {
				return d.here(name, err)
			}
		}
		size += int64(len(data))
		sum = crc32.Update(sum, castagnoli(), data)
	}
	closed, err := from.commit(false)
	if err == nil {
		err = compare(closed, size, sum)
	}
	if err != nil {
		return err
	}
	if err := to.Truncate(size); err != nil { // it may end in a hole
		return d.here(name, err)
	}
	return nil
}

// isZero reports whether all bytes are 0.
func isZero(data []byte) bool {
	return len(data) == 0 || data[0] == 0 && bytes.Equal(data[1:], data[:len(data)-1])
}
