package sbx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Stat describes a file or folder; what a link leads to, and not the link.
func (sb *Sandbox) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	return sb.statPath(ctx, "stat", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_Stat{Stat: []byte(name)}})
}

// Lstat is Stat, but describes a link itself.
func (sb *Sandbox) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	return sb.statPath(ctx, "lstat", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_Lstat{Lstat: []byte(name)}})
}

func (sb *Sandbox) statPath(ctx context.Context, op, name string, request *wirepb.PathRequest) (fs.FileInfo, error) {
	reply, err := sb.path(ctx, request, name)
	if err == nil && reply.GetInfo() == nil {
		err = errors.New("the sandbox sent no answer")
	}
	if err != nil {
		return nil, sb.fileError(op, name, err)
	}
	return newInfo(reply.GetInfo(), path.Base(name)), nil
}

// path does one thing with paths.
func (sb *Sandbox) path(ctx context.Context, request *wirepb.PathRequest, names ...string) (*wirepb.PathReply, error) {
	for _, name := range names {
		if err := checkPath(name); err != nil {
			return nil, err
		}
	}
	running, err := sb.usable(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := running.client().Path(ctx, request)
	if err != nil {
		return nil, sb.remoteError(ctx, running, err)
	}
	return reply, remoteFailure(reply.GetFailure())
}

func (sb *Sandbox) alter(ctx context.Context, op, name string, request *wirepb.PathRequest) error {
	if _, err := sb.path(ctx, request, name); err != nil {
		return sb.fileError(op, name, err)
	}
	return nil
}

// alterLink is alter of what has two paths. As in package os its error is an *os.LinkError with both, as the caller gave them.
func (sb *Sandbox) alterLink(ctx context.Context, op, from, to string, request *wirepb.PathRequest) error {
	_, err := sb.path(ctx, request, from, to)
	if err == nil {
		return nil
	}
	var inner *fs.PathError
	if errors.As(err, &inner) && inner != nil && errors.As(inner.Err, new(*sandboxFailure)) {
		err = inner.Err
	}
	return sb.fail(op, &os.LinkError{Op: op, Old: from, New: to, Err: err})
}

// Mkdir makes a folder.
func (sb *Sandbox) Mkdir(ctx context.Context, name string, mode fs.FileMode) error {
	return sb.alter(ctx, "mkdir", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_MakeDir{MakeDir: &wirepb.MakeDir{Path: []byte(name), Mode: uint32(mode)}}})
}

// MkdirAll makes a folder and those above it that are missing. One that is there is no error.
func (sb *Sandbox) MkdirAll(ctx context.Context, name string, mode fs.FileMode) error {
	return sb.alter(ctx, "mkdir", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_MakeDir{MakeDir: &wirepb.MakeDir{Path: []byte(name), Mode: uint32(mode), All: true}}})
}

// Remove removes a file or an empty folder; as in package os none whose path ends with ".", nor the work folder, as with [Sandbox.RemoveAll].
func (sb *Sandbox) Remove(ctx context.Context, name string) error {
	return sb.remove(ctx, name, false)
}

// RemoveAll removes a path with all that is below it. A path that is not there is no error, nor is an empty one. As in package os, one that ends with "." is refused, and
// nothing removed; and so is any that is the work folder by its name, as "./" with a name behind it that is empty. The root of all files is refused, too, with [ErrRefused].
func (sb *Sandbox) RemoveAll(ctx context.Context, name string) error {
	if name == "" && sb.wrong() == nil { // as package os has it
		return nil
	}
	return sb.remove(ctx, name, true)
}

func (sb *Sandbox) remove(ctx context.Context, name string, all bool) error {
	if strings.HasSuffix(name, "/.") || name != "" && path.Clean(name) == "." {
		return sb.fileError("remove", name, fmt.Errorf("a path that ends with a dot: %w; name the folder, or what is in it", fs.ErrInvalid))
	}
	return sb.alter(ctx, "remove", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_Remove{Remove: &wirepb.Remove{Path: []byte(name), All: all}}})
}

// Rename gives a file or folder another path, within one file system of the sandbox. What is there already is replaced, if the system allows it. Its errors have an
// *os.LinkError, and so have Symlink's.
func (sb *Sandbox) Rename(ctx context.Context, from, to string) error {
	return sb.alterLink(ctx, "rename", from, to, &wirepb.PathRequest{Kind: &wirepb.PathRequest_Rename{Rename: &wirepb.Rename{From: []byte(from), To: []byte(to)}}})
}

// Symlink makes a symbolic link at name that leads to target, which is not looked at.
func (sb *Sandbox) Symlink(ctx context.Context, target, name string) error {
	return sb.symlink(ctx, &wirepb.Link{Target: []byte(target), Path: []byte(name)})
}

func (sb *Sandbox) symlink(ctx context.Context, link *wirepb.Link) error {
	return sb.alterLink(ctx, "symlink", string(link.GetTarget()), string(link.GetPath()), &wirepb.PathRequest{Kind: &wirepb.PathRequest_Link{Link: link}})
}

// Readlink returns where a symbolic link leads. It is the sandbox's word, and means a path there.
func (sb *Sandbox) Readlink(ctx context.Context, name string) (string, error) {
	reply, err := sb.path(ctx, &wirepb.PathRequest{Kind: &wirepb.PathRequest_ReadLink{ReadLink: []byte(name)}}, name)
	if err != nil {
		return "", sb.fileError("readlink", name, err)
	}
	return string(reply.GetText()), nil
}

// Chmod changes the mode of a file or folder.
func (sb *Sandbox) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	return sb.alter(ctx, "chmod", name, &wirepb.PathRequest{Kind: &wirepb.PathRequest_Chmod{Chmod: &wirepb.Chmod{Path: []byte(name), Mode: uint32(mode)}}})
}

// ReadDir returns the entries of a folder, sorted by name. Names are the sandbox's word, but without slashes.
func (sb *Sandbox) ReadDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	entries, err := sb.list(ctx, name)
	if err != nil {
		return nil, sb.fileError("readdir", name, err)
	}
	return entries, nil
}

func (sb *Sandbox) list(ctx context.Context, name string) ([]fs.DirEntry, error) {
	if err := checkPath(name); err != nil {
		return nil, err
	}
	running, err := sb.usable(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := running.client().List(ctx, &wirepb.PathRequest{Kind: &wirepb.PathRequest_List{List: []byte(name)}})
	if err != nil {
		return nil, sb.remoteError(ctx, running, err)
	}
	entries := []fs.DirEntry{}
	for {
		listing, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return entries, nil
		case err != nil:
			return nil, sb.remoteError(ctx, running, err)
		case listing.GetFailure() != nil:
			return nil, remoteFailure(listing.GetFailure())
		}
		if entries, err = appendEntries(entries, listing); err != nil {
			return nil, err
		}
	}
}

func appendEntries(entries []fs.DirEntry, listing *wirepb.Listing) ([]fs.DirEntry, error) {
	if len(entries)+len(listing.GetEntries()) > maxEntries {
		return nil, fmt.Errorf("the folder has more than %d entries", maxEntries)
	}
	for _, entry := range listing.GetEntries() {
		name := string(entry.GetName())
		if !isName(name) {
			return nil, fmt.Errorf("the sandbox sent an entry named %.100q, which can't be", name)
		}
		entries = append(entries, fs.FileInfoToDirEntry(newInfo(entry, name)))
	}
	return entries, nil
}

// isName reports whether a name can be that of a folder's entry.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

// fileInfo is what a sandbox says of a file.
type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
}

func newInfo(info *wirepb.Info, name string) fs.FileInfo {
	return &fileInfo{name, info.GetSize(), fs.FileMode(info.GetMode()), time.Unix(info.GetTimeSeconds(), int64(info.GetTimeNanos()))}
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.size }
func (i *fileInfo) Mode() fs.FileMode  { return i.mode }
func (i *fileInfo) ModTime() time.Time { return i.time }
func (i *fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i *fileInfo) Sys() any           { return nil }
