package sbx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// MaxCopy is how many bytes one CopyFrom takes from a sandbox at most, holes in files included.
	MaxCopy = 64 << 30
	// maxDepth bounds how deep a tree may be that is copied.
	maxDepth = 200
	// copyAhead is how much a copy asks for at a time.
	copyAhead = 64 << 20
	// smallFile is how long a file of a tree may be that is copied beside others, and copiesAtOnce how many are in one sandbox: most of a short file's time is
	// waiting, but each takes a descriptor there, which sbx.Limit may bound.
	smallFile    = filePiece
	copiesAtOnce = 16
	// leastBuffer is for files whose size is told as nothing, as those of /proc are.
	leastBuffer = 32 << 10
)

// errInTheWay is about what a copy does not replace.
var errInTheWay = fmt.Errorf("%w, and is of another kind; remove it, or copy to another place", fs.ErrExist)

// errDevice is about a device, socket or pipe of this machine, or what a process has open.
var errDevice = fmt.Errorf("%w, and is no place of a regular file; copy to another place", fs.ErrExist)

// errLeadsNowhere is about a link that the caller names: neither it nor what it should lead to is the place of a copy.
var errLeadsNowhere = fmt.Errorf("%w: a link that leads nowhere; remove it, or copy to another place", fs.ErrNotExist)

// errIntoItself is about a folder that is mounted: its copy would be copied, and that one's.
var errIntoItself = errors.New("the copy would be in the folder that is copied, by a mount; copy to another place")

var errCopyTooLong = fmt.Errorf("%w: a copy takes at most %d bytes", ErrFileTooLong, int64(MaxCopy))

// CopyTo copies a file or a whole folder of this machine into the sandbox: target becomes the copy. Folders that are there are
// kept, and files in them replaced if they have the same name, each as a whole, as [Sandbox.WriteFile] does, but also those that may not be written to; nothing is removed. Permissions are copied, to files and
// folders that were there, too, but for target itself if it is a folder that was there; set-user-id and the like, owners and times are not.
//
// Symbolic links within a folder are made again as they are and never followed, so nothing from outside of the folder gets into the sandbox; source itself may be one.
// Devices, sockets and pipes are refused: the rest is copied, and the error wraps [ErrRefused] for each. What is removed from the folder meanwhile
// is left out; a file that is written meanwhile is copied as it was read. A folder is not copied into itself, which a mount would allow.
func (sb *Sandbox) CopyTo(ctx context.Context, source, target string) error {
	fail := func(err error) error { return sb.fail("copy to the sandbox", err) }
	info, err := os.Stat(source)
	if err != nil {
		return fail(err)
	}
	if !info.IsDir() {
		if strings.HasSuffix(target, "/") {
			return fail(&fs.PathError{Op: "copy", Path: target, Err: syscall.EISDIR}) // as CopyFrom has it
		}
		file, err := openPlain(source)
		if err != nil {
			return fail(err)
		}
		defer file.Close()
		if err := sb.upload(ctx, file, target); err != nil {
			return sb.fileError("copy", target, err)
		}
		return nil
	}
	root, err := os.OpenRoot(source)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if target != "" { // which names nothing
		target = path.Clean(target) // as that of each entry is
	}
	if here, ok := sb.here(target); ok && within(here, source) {
		return fail(&fs.PathError{Op: "copy", Path: source, Err: errIntoItself})
	}
	if _, err := sb.usable(ctx); err != nil {
		return sb.fileError("copy", target, err) // and not of the folder above, which is made first
	}
	up := &upload{sb: sb, root: root, target: target}
	made, err := up.makeTarget(ctx, info.Mode())
	if made {
		up.modes = append(up.modes, folderMode{target, info.Mode().Perm()})
	}
	if err == nil {
		err = besides(ctx, func(ctx context.Context, beside *errgroup.Group) error {
			up.beside = beside
			return up.folder(ctx, ".", 0)
		})
	}
	if modeErr := up.setModes(ctx); err == nil {
		err = modeErr
	}
	err = errors.Join(err, errors.Join(up.refused...))
	if err != nil && !errors.As(err, new(*SandboxError)) {
		err = fail(err)
	}
	return err
}

// here is where on this machine a path of the sandbox is that leads into a mount.
func (sb *Sandbox) here(name string) (string, bool) {
	if sb.wrong() != nil {
		return "", false
	}
	_, _, mounts := sb.class.parse()
	for _, m := range mounts {
		if rest, ok := strings.CutPrefix(name+"/", m.Target+"/"); ok {
			return filepath.Join(m.Source, filepath.FromSlash(rest)), true
		}
	}
	return "", false
}

// within reports whether a path of this machine, which need not be there, is a folder's or leads to below it.
func within(name, folder string) bool {
	whole, err := os.Stat(folder)
	if err != nil {
		return false
	}
	name, err = filepath.Abs(name)
	for err == nil {
		if above, err := os.Stat(name); err == nil && os.SameFile(above, whole) {
			return true
		}
		if resolved, err := filepath.EvalSymlinks(name); err == nil {
			name = resolved // what is above a link is not above what it leads to
		}
		if name == filepath.Dir(name) {
			break
		}
		name = filepath.Dir(name)
	}
	return false
}

// openPlain opens a regular file, and nothing else.
func openPlain(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = refusal("open", name, info.Mode())
	}
	if err != nil {
		return nil, err
	}
	// What has taken its place since is not waited for.
	file, err := os.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	if info, err = file.Stat(); err == nil && !info.Mode().IsRegular() {
		err = refusal("open", name, info.Mode())
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func refusal(op, name string, mode fs.FileMode) error {
	return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("%w: it is no regular file, folder or link (%v)", ErrRefused, mode.Type())}
}

type folderMode struct {
	name string
	mode fs.FileMode
}

// besides runs walk, which goes through a tree and has small files copied beside it. The error is the first of both: the rest is given up for it.
func besides(ctx context.Context, walk func(context.Context, *errgroup.Group) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(copiesAtOnce + 1)
	group.Go(func() error { return walk(ctx, group) })
	return group.Wait()
}

// copyBeside copies one small file when it is its turn.
func (sb *Sandbox) copyBeside(ctx context.Context, copyIt func() error) error {
	select {
	case sb.copying <- struct{}{}:
		defer func() { <-sb.copying }()
		return copyIt()
	case <-ctx.Done():
		return contextError(ctx)
	}
}

// upload is one CopyTo of a folder.
type upload struct {
	sb      *Sandbox
	root    *os.Root
	target  string
	beside  *errgroup.Group
	modes   []folderMode // of the copy
	refused []error
}

// setModes gives the folders theirs when all is in them, or nothing more will be.
func (u *upload) setModes(ctx context.Context) error {
	for _, folder := range slices.Backward(u.modes) { // the innermost first
		if err := u.sb.Chmod(ctx, folder.name, folder.mode); err != nil {
			return err
		}
	}
	return nil
}

// makeTarget makes the folder that becomes the copy, and those above it, and reports whether it was not there: one that was keeps its mode.
func (u *upload) makeTarget(ctx context.Context, mode fs.FileMode) (made bool, err error) {
	if err := u.sb.MkdirAll(ctx, path.Dir(u.target), 0o777); err != nil {
		return false, err
	}
	return u.makeFolder(ctx, u.target, mode)
}

// makeFolder makes a folder where none is, and reports whether it did.
func (u *upload) makeFolder(ctx context.Context, target string, mode fs.FileMode) (made bool, err error) {
	if err := u.sb.Mkdir(ctx, target, mode.Perm()|0o700); !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	return false, u.sb.MkdirAll(ctx, target, 0o777) // an error if it is no folder
}

func (u *upload) folder(ctx context.Context, name string, depth int) error {
	if depth > maxDepth {
		return u.here(name, fmt.Errorf("more than %d folders deep", maxDepth))
	}
	folder, err := u.root.Open(name)
	switch {
	case depth > 0 && errors.Is(err, fs.ErrNotExist):
		return nil // it is gone
	case err != nil:
		return u.here(name, err)
	}
	defer folder.Close()
	for {
		entries, err := folder.ReadDir(1000)
		for _, entry := range entries {
			if err := u.entry(ctx, path.Join(name, entry.Name()), depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), depth > 0 && errors.Is(err, fs.ErrNotExist): // or it is gone
			return nil
		case err != nil:
			return err
		}
	}
}

func (u *upload) entry(ctx context.Context, name string, depth int) error {
	if ctx.Err() != nil { // a file that is copied beside this one may have failed
		return contextError(ctx)
	}
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // it is gone
	case err != nil:
		return u.here(name, err)
	}
	target := path.Join(u.target, filepath.ToSlash(name))
	switch info.Mode().Type() {
	case fs.ModeDir:
		if _, err := u.makeFolder(ctx, target, info.Mode()); err != nil {
			return err
		}
		u.modes = append(u.modes, folderMode{target, info.Mode().Perm()})
		return u.folder(ctx, name, depth+1)
	case fs.ModeSymlink:
		link, err := u.root.Readlink(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it is gone
		case err != nil:
			return u.here(name, err)
		}
		return u.sb.symlink(ctx, &wirepb.Link{Target: []byte(filepath.ToSlash(link)), Path: []byte(target), Replace: true})
	case 0:
		// Root follows links that stay in it, should it be one by now; and what it opens may be another by now, too.
		file, err := u.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it is gone
		case err != nil:
			return u.here(name, err)
		}
		if info, err = file.Stat(); err == nil && info.Mode().IsRegular() {
			return u.file(ctx, file, info.Size(), target)
		}
		_ = file.Close()
		if err != nil {
			return err
		}
	}
	u.refused = append(u.refused, refusal("copy", u.path(name), info.Mode()))
	return nil
}

// path is that of a file of the folder on this machine.
func (u *upload) path(name string) string { return filepath.Join(u.root.Name(), name) }

// here is an error about a file of the folder with its path on this machine.
func (u *upload) here(name string, err error) error {
	return &fs.PathError{Op: "copy", Path: u.path(name), Err: unnamed(err)}
}

// unnamed is an error of this machine's system without the name that it has of a file: os.Root's is the one within the folder, and a temporary one nobody knows.
func unnamed(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// file copies one file, beside others if it is small, and closes it.
func (u *upload) file(ctx context.Context, file *os.File, size int64, target string) error {
	copyIt := func() error {
		if err := u.sb.upload(ctx, file, target); err != nil {
			return u.sb.fileError("copy", target, err)
		}
		return nil
	}
	if size > smallFile {
		defer file.Close()
		return copyIt()
	}
	u.beside.Go(func() error {
		defer file.Close()
		return u.sb.copyBeside(ctx, copyIt)
	})
	return nil
}

// upload writes a file whole.
func (sb *Sandbox) upload(ctx context.Context, from *os.File, target string) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	f, err := sb.opening(ctx, &wirepb.Open{Path: []byte(target), Write: true, Atomic: true, Exact: true, Mode: uint32(info.Mode().Perm())})
	if err != nil {
		return err
	}
	defer f.end()
	if info.Size() > smallFile { // much would be on its way when the answer comes
		if _, err := f.opened(); err != nil {
			return err
		}
	}
	f.takeWindows(info.Size())
	defer f.lent.free()
	if len(f.lent.windows) == 0 {
		f.lent.buffer = make([]byte, min(max(info.Size()+1, leastBuffer), filePiece)) // a short one's end is found with its content
	}
	// Some of the kernel's files never end: what they have next, as /proc/kmsg, is waited for as long as the context lasts.
	defer context.AfterFunc(ctx, func() { _ = from.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		buffer, err := f.space()
		if err != nil {
			return err
		}
		n, err := io.ReadFull(from, buffer)
		if n > 0 {
			if err := f.extend(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if err := f.endHole(); err != nil {
				return err
			}
			_, err = f.commit(true)
			return err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return contextError(ctx)
		case err != nil:
			return err
		}
	}
}
