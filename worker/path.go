package worker

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// changedBy returns the path that a request changes something at; nil if it only looks.
func changedBy(request *wirepb.PathRequest) []byte {
	switch kind := request.GetKind().(type) {
	case *wirepb.PathRequest_MakeDir:
		return kind.MakeDir.GetPath()
	case *wirepb.PathRequest_Remove:
		return kind.Remove.GetPath()
	case *wirepb.PathRequest_Rename:
		return kind.Rename.GetFrom()
	case *wirepb.PathRequest_Link:
		return kind.Link.GetPath()
	case *wirepb.PathRequest_Chmod:
		return kind.Chmod.GetPath()
	}
	return nil
}

// Path is the handler of what is done with a path.
func (a *attendant) Path(ctx context.Context, request *wirepb.PathRequest) (*wirepb.PathReply, error) {
	if changed := changedBy(request); changed != nil {
		defer a.changes.begin(ctx, a.path(changed))()
	}
	reply := &wirepb.PathReply{}
	if request.GetEndFiles() {
		a.drafts.end()
		return reply, nil
	}
	if err := a.changes.settle(ctx); err != nil {
		return reply, tell(err, func(f *wirepb.Failure) error { reply.Failure = f; return nil })
	}
	var info fs.FileInfo
	var err error
	switch kind := request.GetKind().(type) {
	case *wirepb.PathRequest_Stat:
		info, err = os.Stat(a.path(kind.Stat))
	case *wirepb.PathRequest_Lstat:
		info, err = os.Lstat(a.path(kind.Lstat))
	case *wirepb.PathRequest_MakeDir:
		if kind.MakeDir.GetAll() {
			err = os.MkdirAll(a.path(kind.MakeDir.GetPath()), fs.FileMode(kind.MakeDir.GetMode()))
		} else {
			err = os.Mkdir(a.path(kind.MakeDir.GetPath()), fs.FileMode(kind.MakeDir.GetMode()))
		}
	case *wirepb.PathRequest_Remove:
		switch path := a.path(kind.Remove.GetPath()); {
		case !kind.Remove.GetAll():
			err = os.Remove(path)
		case path != "" && filepath.Dir(filepath.Clean(path)) == filepath.Clean(path):
			// Nobody means it, and where a sandbox isn't isolated, as with driver/process, it would be this machine's.
			err = refused("remove", path, "is the root of all files; name what is to be removed")
		default:
			err = os.RemoveAll(path)
		}
	case *wirepb.PathRequest_Rename:
		err = os.Rename(a.path(kind.Rename.GetFrom()), a.path(kind.Rename.GetTo()))
	case *wirepb.PathRequest_ReadLink:
		var text string
		text, err = os.Readlink(a.path(kind.ReadLink))
		reply.Text = []byte(text)
	case *wirepb.PathRequest_Link:
		if target, path := string(kind.Link.GetTarget()), a.path(kind.Link.GetPath()); kind.Link.GetReplace() {
			err = a.drafts.replaceLink(target, path)
		} else {
			err = os.Symlink(target, path)
		}
	case *wirepb.PathRequest_Chmod:
		err = os.Chmod(a.path(kind.Chmod.GetPath()), fs.FileMode(kind.Chmod.GetMode()))
		if kind.Chmod.GetMode()&0o111 != 0 { // it may be executed next, and have been written a moment ago
			a.starts.settle()
		}
	default:
		return nil, status.Error(codes.InvalidArgument, "a request that this worker does not know")
	}
	if info != nil {
		reply.Info = infoOf(info)
	}
	reply.Failure = failure(err)
	return reply, nil
}
