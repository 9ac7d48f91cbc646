package worker

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// filePiece is the most that one message of a file's content has.
	filePiece = 256 << 10
	// listed is how many entries of a folder one message has.
	listed = 512
)

// castagnoli is the table of the checksums. Package crc32 makes it when it is first used, which takes the time of a start that needs none.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// failure describes an error for the other side; nil for none.
func failure(err error) *wirepb.Failure {
	if err == nil {
		return nil
	}
	f := &wirepb.Failure{}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		f.Op, f.Path, f.Text = path.Op, []byte(path.Path), []byte(path.Err.Error())
	case errors.As(err, &link):
		f.Op, f.Path, f.Text = link.Op, []byte(link.Old), []byte(link.Err.Error())
	default:
		f.Text = []byte(err.Error())
	}
	f.Path, f.Text = f.Path[:min(len(f.Path), maxStack)], f.Text[:min(len(f.Text), maxStack)]
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		f.Errno = int64(errno)
	}
	switch {
	case errors.As(err, new(refusal)):
		f.Kind = wirepb.Failure_KIND_REFUSED
	case errors.Is(err, fs.ErrNotExist):
		f.Kind = wirepb.Failure_KIND_NOT_EXIST
	case errors.Is(err, fs.ErrExist):
		f.Kind = wirepb.Failure_KIND_EXIST
	case errors.Is(err, fs.ErrPermission):
		f.Kind = wirepb.Failure_KIND_PERMISSION
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EINVAL):
		f.Kind = wirepb.Failure_KIND_INVALID
	case errors.Is(err, os.ErrProcessDone), errors.Is(err, fs.ErrClosed):
		f.Kind = wirepb.Failure_KIND_CLOSED
	}
	return f
}

// refusal is what the worker does not do, by a rule of its own.
type refusal string

func (r refusal) Error() string { return string(r) }

func refused(op, path, why string) error { return &fs.PathError{Op: op, Path: path, Err: refusal(why)} }

func infoOf(info fs.FileInfo) *wirepb.Info {
	return &wirepb.Info{Name: []byte(info.Name()), Size: info.Size(), Mode: uint32(info.Mode()), TimeSeconds: info.ModTime().Unix(), TimeNanos: int32(info.ModTime().Nanosecond())}
}

// tell sends an error as a failure. One of the stream, or of its context, is nobody's to hear.
func tell(err error, send func(*wirepb.Failure) error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return send(failure(err))
}

// fileBuffers are what files have as theirs: to make one takes longer than to read a short file.
var fileBuffers = sync.Pool{New: func() any { return new([filePiece]byte) }}

// handle is one open file.
type handle struct {
	stream grpc.BidiStreamingServer[wirepb.FileRequest, wirepb.FileReply]
	path   string
	file   *os.File
	append bool
	// target is the path that an atomic file takes when it is whole; empty for others.
	target string
	buffer *[filePiece]byte // for what is read
	ledger *ledger.Ledger
	starts *starts
	drafts *drafts
	writes bool

	// size and sum are of what was read, or written, in order from the begin.
	size int64
	sum  uint32
}

// File is the handler of one open file.
func (a *attendant) File(stream grpc.BidiStreamingServer[wirepb.FileRequest, wirepb.FileReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOpen() == nil {
		return status.Error(codes.InvalidArgument, "the first message of a file opens it")
	}
	open, path := first.GetOpen(), a.path(first.GetOpen().GetPath())
	if open.GetWrite() || open.GetCreate() || open.GetTruncate() {
		defer a.changes.begin(stream.Context(), path)()
	}
	h := &handle{stream: stream, ledger: a.ledger, starts: &a.starts, drafts: &a.drafts, writes: open.GetWrite()}
	if err := a.changes.settle(stream.Context()); err != nil {
		return h.fail(err)
	}
	info, err := h.open(path, open)
	if err != nil {
		return h.fail(err)
	}
	defer h.abandon()
	if err := stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Info{Info: infoOf(info)}}); err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // dropped without Close
		}
		if err != nil {
			return err
		}
		if err := a.changes.settle(stream.Context()); err != nil {
			return h.fail(err)
		}
		closed := false
		switch kind := request.GetKind().(type) {
		case *wirepb.FileRequest_Read:
			err = h.read(kind.Read)
		case *wirepb.FileRequest_Write:
			err = h.write(kind.Write)
		case *wirepb.FileRequest_Stat:
			if info, err = h.file.Stat(); err == nil {
				err = stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Info{Info: infoOf(info)}})
			}
		case *wirepb.FileRequest_Truncate:
			if err = h.truncate(kind.Truncate); err == nil {
				err = h.done()
			}
		case *wirepb.FileRequest_Sync:
			if err = h.file.Sync(); err == nil {
				err = h.done()
			}
		case *wirepb.FileRequest_List:
			err = h.list()
		case *wirepb.FileRequest_Close:
			closed = true
			err = h.commit(kind.Close)
		default:
			return status.Error(codes.InvalidArgument, "a request that this worker does not know")
		}
		if err != nil {
			return h.fail(err)
		}
		if closed {
			return nil
		}
	}
}

func (h *handle) done() error {
	return h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Done{Done: true}})
}

// fail tells why the handle is of no use any more.
func (h *handle) fail(err error) error {
	return tell(err, func(f *wirepb.Failure) error {
		return h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Failure{Failure: f}})
	})
}

// abandon closes the file, and removes what was not committed.
func (h *handle) abandon() {
	_ = h.file.Close() // again: no harm
	if h.buffer != nil {
		fileBuffers.Put(h.buffer)
		h.buffer = nil
	}
	if h.target != "" {
		_ = os.Remove(h.path)
		h.drafts.paths.Delete(h.path)
		unfinished.Delete(filepath.Base(h.path))
	}
}

func (h *handle) open(path string, open *wirepb.Open) (fs.FileInfo, error) {
	h.path = path
	if open.GetAtomic() {
		return h.create(path, fs.FileMode(open.GetMode()).Perm(), open.GetExact())
	}
	flags := os.O_RDONLY
	switch {
	case open.GetRead() && open.GetWrite():
		flags = os.O_RDWR
	case open.GetWrite():
		flags = os.O_WRONLY
	}
	for _, flag := range []struct {
		set  bool
		flag int
	}{{open.GetAppend(), os.O_APPEND}, {open.GetCreate(), os.O_CREATE}, {open.GetExclusive(), os.O_EXCL}, {open.GetTruncate(), os.O_TRUNC}} {
		if flag.set {
			flags |= flag.flag
		}
	}
	h.append = open.GetAppend()
	if info, err := os.Stat(path); err == nil { // to open some is to do something, or to wait
		if err := plain(info, path); err != nil {
			return nil, err
		}
	}
	var err error
	// What has taken its place since is not waited for either.
	if h.file, err = os.OpenFile(path, flags|nonblock, fs.FileMode(open.GetMode()).Perm()); err != nil {
		return nil, err
	}
	info, err := h.file.Stat()
	if err == nil {
		err = plain(info, path)
	}
	if err != nil {
		_ = h.file.Close()
		return nil, err
	}
	return info, nil
}

// plain refuses what is no file or folder: pipes would block, and devices act.
func plain(info fs.FileInfo, path string) error {
	if mode := info.Mode(); !mode.IsRegular() && !mode.IsDir() {
		return refused("open", path, fmt.Sprintf("is no regular file (%v); a command can use it", mode.Type()))
	}
	return nil
}

// create makes the file that is to take path's place.
func (h *handle) create(path string, mode fs.FileMode, exact bool) (fs.FileInfo, error) {
	if endsInSeparator(path) { // as only that of a folder can
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	}
	// A link stays, and what it leads to is replaced.
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case err == nil:
		if err := plain(info, path); err != nil {
			return nil, err
		}
		if err := mayWrite(path); !exact && errors.Is(err, fs.ErrPermission) { // who protected it is to keep it; a copy replaces it
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	default:
		path = linked(path)
	}
	for {
		name := unfinishedName()
		temporary := filepath.Join(filepath.Dir(path), name)
		err = h.drafts.make(temporary, func() (err error) {
			h.file, err = os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
			return err
		})
		if err != nil {
			unfinished.Delete(name)
		}
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		var named *fs.PathError
		if errors.As(err, &named) {
			named.Path = path // nobody knows the other
			named.Err = inPlace(named.Err, path)
		}
		if err != nil {
			return nil, err
		}
		h.path, h.target = temporary, path
		break
	}
	switch {
	case exact:
		err = h.file.Chmod(mode)
	case info != nil: // what is there keeps its mode
		err = h.file.Chmod(info.Mode().Perm())
	}
	if err == nil {
		info, err = h.file.Stat()
	}
	if err != nil {
		h.abandon()
		return nil, err
	}
	return info, nil
}

// inPlace adds what can be done where a file can't be replaced, but be written to, as one that is mounted by itself.
func inPlace(err error, path string) error {
	if !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EBUSY) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	file, openErr := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0) // it may be a pipe
	if openErr != nil {
		return err
	}
	_ = file.Close()
	return fmt.Errorf("%w: the file can't be replaced as a whole there, but written to: by Sandbox.OpenFile, or a command", err)
}

// linked is where a file is to be made for a path at which nothing is, or a link to nothing.
func linked(path string) string {
	for range 40 { // as Linux does
		to, err := os.Readlink(path)
		if err != nil {
			return path
		}
		if !filepath.IsAbs(to) {
			folder, _ := filepath.Split(path)
			to = folder + to // not cleaned: what .. is depends on where the links before it lead
		}
		folder, name := filepath.Split(to)
		if folder, err = filepath.EvalSymlinks(folder); err != nil {
			return to
		}
		path = filepath.Join(folder, name)
	}
	return path
}

// read sends what was asked for, in pieces.
func (h *handle) read(request *wirepb.Read) error {
	if request.GetLength() < 0 || request.GetOffset() < 0 {
		return refused("read", h.path, "a negative length or offset")
	}
	if request.GetWindow() != nil {
		return h.readInto(request)
	}
	if h.buffer == nil {
		h.buffer = fileBuffers.Get().(*[filePiece]byte)
	}
	offset, rest := request.GetOffset(), request.GetLength()
	for {
		n, err := h.file.ReadAt(h.buffer[:min(rest, filePiece)], offset)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		h.count(h.buffer[:n], offset)
		offset, rest = offset+int64(n), rest-int64(n)
		more := rest > 0 && !end
		piece := &wirepb.Piece{Data: h.buffer[:n], More: more, End: end}
		if err := h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Data{Data: piece}}); err != nil || !more {
			return err
		}
	}
}

// readInto reads into a window that the session lends.
func (h *handle) readInto(request *wirepb.Read) error {
	memory, giveBack, err := h.borrow(request.GetWindow(), request.GetLength())
	if err != nil {
		return err
	}
	n, err := h.file.ReadAt(memory, request.GetOffset())
	h.count(memory[:n], request.GetOffset())
	giveBack()
	end := errors.Is(err, io.EOF)
	if err != nil && !end {
		return err
	}
	return h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Data{Data: &wirepb.Piece{Length: int64(n), End: end}}})
}

// borrow returns the first length bytes of a window.
func (h *handle) borrow(window *wirepb.Window, length int64) (memory []byte, giveBack func(), err error) {
	memory, giveBack = h.ledger.Borrow(int(window.GetNumber()), window.GetLoan())
	switch {
	case giveBack == nil:
		return nil, nil, status.Error(codes.InvalidArgument, "a window that was not lent")
	case length < 0 || length > int64(len(memory)):
		giveBack()
		return nil, nil, status.Error(codes.InvalidArgument, "a window is not that long")
	}
	return memory[:length], giveBack, nil
}

// count adds to the checksum what is next in order.
func (h *handle) count(data []byte, offset int64) {
	if offset == h.size {
		h.size += int64(len(data))
		h.sum = crc32.Update(h.sum, castagnoli(), data)
	}
}

func (h *handle) write(request *wirepb.Write) error {
	if request.GetWindow() == nil {
		return h.writeData(request.GetData(), request.GetOffset())
	}
	memory, giveBack, err := h.borrow(request.GetWindow(), request.GetLength())
	if err != nil {
		return err
	}
	err = h.writeData(memory, request.GetOffset())
	giveBack()
	if err != nil {
		return err
	}
	return h.done()
}

func (h *handle) writeData(data []byte, offset int64) (err error) {
	if h.append {
		_, err = h.file.Write(data)
	} else {
		_, err = h.file.WriteAt(data, offset)
	}
	h.count(data, offset)
	return err
}

// zeros are what a hole reads as.
var zeros [filePiece]byte

// truncate changes the file's size. What it adds at the end counts as written.
func (h *handle) truncate(size int64) error {
	if err := h.file.Truncate(size); err != nil {
		return err
	}
	for h.target != "" && h.size < size {
		h.count(zeros[:min(size-h.size, filePiece)], h.size)
	}
	return nil
}

// commit closes the file. One that is to be whole takes its place only if it is.
func (h *handle) commit(commit *wirepb.Commit) error {
	if commit.GetCheck() && (commit.GetSize() != h.size || commit.GetCrc32C() != h.sum) {
		return refused("write", h.path, fmt.Sprintf("%d bytes with checksum %08x arrived, and %d with %08x were sent", h.size, h.sum, commit.GetSize(), commit.GetCrc32C()))
	}
	executable := false
	if h.writes {
		info, err := h.file.Stat()
		executable = err == nil && info.Mode()&0o111 != 0
	}
	if err := h.file.Close(); err != nil {
		return err
	}
	if executable { // it may be executed next
		h.starts.settle()
	}
	if h.target != "" {
		if err := h.drafts.place(h.path, h.target); err != nil {
			var link *os.LinkError
			if errors.As(err, &link) {
				return &fs.PathError{Op: link.Op, Path: h.target, Err: inPlace(link.Err, h.target)}
			}
			return err
		}
		h.target = ""
		unfinished.Delete(filepath.Base(h.path))
	}
	return h.stream.Send(&wirepb.FileReply{Kind: &wirepb.FileReply_Closed{Closed: &wirepb.Closed{Size: h.size, Crc32C: h.sum}}})
}
