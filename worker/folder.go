package worker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc"
)

// List is the handler of a folder's content.
func (a *attendant) List(request *wirepb.PathRequest, stream grpc.ServerStreamingServer[wirepb.Listing]) error {
	if err := a.changes.settle(stream.Context()); err != nil {
		return tell(err, func(f *wirepb.Failure) error { return stream.Send(&wirepb.Listing{Failure: f}) })
	}
	folder := a.path(request.GetList())
	entries, err := os.ReadDir(folder)
	if err != nil {
		return stream.Send(&wirepb.Listing{Failure: failure(err)})
	}
	var infos []fs.FileInfo
	for _, entry := range entries {
		if _, is := unfinished.Load(entry.Name()); is {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is gone
		}
		if err != nil { // as in a folder that may be read and not entered: what is there must not seem to be missing
			var inner *fs.PathError
			if errors.As(err, &inner) {
				err = inner.Err
			}
			err = &fs.PathError{Op: "readdir", Path: folder, Err: fmt.Errorf("entry %q: %w", entry.Name(), err)}
			return stream.Send(&wirepb.Listing{Failure: failure(err)})
		}
		infos = append(infos, info)
	}
	return sendEntries(infos, stream.Send)
}

// list sends what is in an open folder, which may have another path by now, or none. If it can't be read, it stays open.
func (h *handle) list() error {
	send := func(listing *wirepb.Listing) error {
		return h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Listing{Listing: listing}})
	}
	infos, err := h.entries()
	if err != nil {
		return send(&wirepb.Listing{Failure: failure(err)})
	}
	if err := sendEntries(infos, send); err != nil {
		return err
	}
	return h.done()
}

// entries reads an open folder.
func (h *handle) entries() ([]fs.FileInfo, error) {
	if _, err := h.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	infos, err := h.file.Readdir(-1)
	var entry *fs.PathError
	if errors.As(err, &entry) && entry.Path != h.file.Name() { // as List has it
		err = &fs.PathError{Op: "readdir", Path: h.path, Err: fmt.Errorf("entry %q: %w", filepath.Base(entry.Path), entry.Err)}
	}
	if err != nil {
		return nil, err
	}
	infos = slices.DeleteFunc(infos, func(info fs.FileInfo) bool {
		_, is := unfinished.Load(info.Name())
		return is
	})
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return infos, nil
}

func sendEntries(infos []fs.FileInfo, send func(*wirepb.Listing) error) error {
	for some := range slices.Chunk(infos, listed) {
		listing := &wirepb.Listing{}
		for _, info := range some {
			listing.Entries = append(listing.Entries, infoOf(info))
		}
		if err := send(listing); err != nil {
			return err
		}
	}
	return nil
}
