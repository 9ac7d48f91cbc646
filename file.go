package sbx

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc"
)

const (
	// MaxReadFile is how long a file may be that [Sandbox.ReadFile] returns whole: what runs in a sandbox does not get to fill this program's
	// memory. Use [Sandbox.Open] for longer ones.
	MaxReadFile = 64 << 20
	// filePiece is the most that one message of a file's content has.
	filePiece = 256 << 10
	// readAhead is how much a File asks for at a time, when it is read in order.
	readAhead = 4 << 20
	// maxPathLength bounds a path, by Linux's PATH_MAX.
	maxPathLength = 4096
	// maxEntries bounds the entries of a folder that are taken from a sandbox.
	maxEntries = 1 << 20
)

// castagnoli is the table of the checksums. Package crc32 makes it when it is first used, which takes the time of a start that needs none.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// File is an open file of a sandbox, in the manner of *os.File. Its methods may be called at the same time, and wait for each other. When the context with which it was
// opened ends, or the sandbox does, all of them fail; and so they do after an error of the sandbox's system, such as a full disk, since what was written before need not be there. Close it.
type File struct {
	sandbox *Sandbox
	running *sandbox
	name    string
	ctx     context.Context // of the whole file
	end     context.CancelFunc
	stream  grpc.BidiStreamingClient[wirepb.FileRequest, wirepb.FileReply]
	open    *wirepb.Open
	opening bool // its answer has not been taken yet
	folder  bool

	mu      sync.Mutex
	closed  bool
	broken  error // why it is of no use any more
	offset  int64
	atTail  bool   // after Write with os.O_APPEND: offset is the file's size, which is not asked for before it matters
	ahead   []byte // of offset, read already
	coming  bool   // more pieces of the last request follow
	atEnd   bool   // the last piece ended the file
	written int64  // in order from the begin
	hole    int    // at the end of that, which the sandbox does not know of yet
	sum     uint32 // of that
	lent    lent
	entries []fs.DirEntry // of a folder, as they were when the place was at its begin
}

// Open opens a file or folder for reading. The path is a path of the sandbox; a relative one is relative to its work folder, and joined
// to that as filepath.Join does, ".." included. Only regular files and folders can be opened:
// devices and pipes are refused.
func (sb *Sandbox) Open(ctx context.Context, name string) (*File, error) {
	return sb.OpenFile(ctx, name, os.O_RDONLY, 0)
}

// Create creates a file for reading and writing, or empties it, with mode 0o666 before the sandbox's mask, 0o022.
func (sb *Sandbox) Create(ctx context.Context, name string) (*File, error) {
	return sb.OpenFile(ctx, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile is the general form, with the flags of package os but os.O_SYNC.
func (sb *Sandbox) OpenFile(ctx context.Context, name string, flag int, mode fs.FileMode) (*File, error) {
	open := &wirepb.Open{
		Path: []byte(name), Mode: uint32(mode.Perm()),
		Read: flag&(os.O_WRONLY|os.O_RDWR) != os.O_WRONLY, Write: flag&(os.O_WRONLY|os.O_RDWR) != 0, Append: flag&os.O_APPEND != 0,
		Create: flag&os.O_CREATE != 0, Exclusive: flag&os.O_EXCL != 0, Truncate: flag&os.O_TRUNC != 0,
	}
	if flag&os.O_SYNC != 0 { // whose promise nobody would keep
		return nil, sb.fileError("open", name, fmt.Errorf("os.O_SYNC: %w; use File.Sync", fs.ErrInvalid))
	}
	f, _, err := sb.openFile(ctx, open)
	if err != nil {
		return nil, sb.fileError("open", name, err)
	}
	if !f.folder && (open.Write || open.Create || open.Truncate) {
		f.running.noteFile(f, true)
	}
	return f, nil
}

// fileError is an error about a path of the sandbox: an *fs.PathError with the path as the caller gave it. One about a path of this machine stays.
func (sb *Sandbox) fileError(op, name string, err error) error {
	var inner *fs.PathError
	switch {
	case !errors.As(err, &inner) || inner == nil: // what a context was cancelled with may say anything
	case !errors.As(inner.Err, new(*sandboxFailure)):
		return sb.fail(op, err)
	default:
		op, err = inner.Op, inner.Err
	}
	return sb.fail(op, &fs.PathError{Op: op, Path: name, Err: err})
}

// checkPath refuses what can't be a path, as package os has it.
func checkPath(name string) error {
	switch {
	case name == "":
		return syscall.ENOENT
	case len(name) >= maxPathLength:
		return fmt.Errorf("a path of %d bytes: %w", len(name), syscall.ENAMETOOLONG)
	case strings.Contains(name, "\x00"):
		return fmt.Errorf("a path with a NUL byte: %w", fs.ErrInvalid)
	}
	return nil
}

// openFile opens a file.
func (sb *Sandbox) openFile(ctx context.Context, open *wirepb.Open) (*File, *wirepb.Info, error) {
	f, err := sb.opening(ctx, open)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.opened()
	if err != nil {
		f.end()
		return nil, nil, err
	}
	return f, info, nil
}

// opening begins to open a file. Requests may follow before the sandbox has answered, which saves a short file a round trip; if it can't be opened, that is their answer.
func (sb *Sandbox) opening(ctx context.Context, open *wirepb.Open) (*File, error) {
	if err := checkPath(string(open.GetPath())); err != nil {
		return nil, err
	}
	running, err := sb.usable(ctx)
	if err != nil {
		return nil, err
	}
	f := &File{sandbox: sb, running: running, name: string(open.GetPath()), open: open, opening: true}
	f.ctx, f.end = context.WithCancel(ctx)
	if f.stream, err = running.client().File(f.ctx); err != nil {
		f.end()
		return nil, sb.remoteError(ctx, running, err)
	}
	_ = f.stream.Send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Open{Open: open}}) // what is wrong, Recv says
	return f, nil
}

// opened takes the answer to what opening has begun.
func (f *File) opened() (*wirepb.Info, error) {
	f.opening = false
	reply, err := f.receive()
	switch {
	case err != nil:
		return nil, err
	case reply.GetInfo() == nil:
		f.broken = unexpected(reply)
		return nil, f.broken
	}
	f.folder = fs.FileMode(reply.GetInfo().GetMode()).IsDir()
	return reply.GetInfo(), nil
}

func unexpected(reply *wirepb.FileReply) error {
	return fmt.Errorf("the sandbox sent %T, which was not asked for", reply.GetKind())
}

// receive takes one answer. After an error the file is of no use.
func (f *File) receive() (*wirepb.FileReply, error) {
	if f.opening {
		if _, err := f.opened(); err != nil {
			return nil, err
		}
	}
	reply, err := f.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("the sandbox ended the file without an answer")
	case err != nil:
		err = f.sandbox.remoteError(f.ctx, f.running, err)
	case reply.GetFailure() != nil:
		err = remoteFailure(reply.GetFailure())
	default:
		return reply, nil
	}
	f.broken = err
	return nil, err
}

// giveUp ends the file's stream, whose context has ended. The worker hears of that before it hears of what is sent after it.
func (f *File) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if _, err := f.stream.Recv(); err != nil {
			return
		}
	}
}

// send sends a request. If the stream has ended, it is the answer that says why.
func (f *File) send(request *wirepb.FileRequest) error {
	if f.stream.Send(request) == nil {
		return nil
	}
	for { // answers to earlier requests may come before
		if _, err := f.receive(); err != nil {
			return err
		}
	}
}

// ask sends a request and takes its answer.
func (f *File) ask(request *wirepb.FileRequest) (*wirepb.FileReply, error) {
	if err := f.drop(); err != nil {
		return nil, err
	}
	if err := f.send(request); err != nil {
		return nil, err
	}
	return f.receive()
}

var errFileNotOpened = &OptionError{Option: "the file", Reason: "was not opened; use what Open, Create or OpenFile returned, and look at their error first"}

// lock has the file for one operation, which must end with unlock. It is an error if nothing opened it.
func (f *File) lock(op string) error {
	if f == nil || f.sandbox == nil {
		return fmt.Errorf("sbx: %s: %w", op, errFileNotOpened)
	}
	f.mu.Lock()
	return nil
}

// usable is an error if the file is not.
func (f *File) usable() error {
	switch {
	case f.closed:
		return fs.ErrClosed
	case f.broken != nil:
		return f.broken
	}
	return nil
}

// mayRead is an error if the file can't be read. It is found here, because an error of the sandbox ends the handle.
func (f *File) mayRead() error {
	err := f.usable()
	switch {
	case err != nil:
		return err
	case f.folder:
		return fmt.Errorf("%w; use ReadDir", syscall.EISDIR)
	case !f.open.GetRead():
		return fmt.Errorf("%w: it was opened for writing only", syscall.EBADF)
	}
	return nil
}

// mayWrite is an error if the file can't be written, as mayRead is.
func (f *File) mayWrite() error {
	err := f.usable()
	if err == nil && !f.open.GetWrite() {
		err = fmt.Errorf("%w: it was opened for reading only", syscall.EBADF)
	}
	return err
}

// errFarAway is about what no file can have. It is found here, because an error of the sandbox ends the handle.
var errFarAway = fmt.Errorf("behind the end of the largest file: %w", syscall.EINVAL)

func isFarAway(offset int64, p []byte) bool { return offset > math.MaxInt64-int64(len(p)) }

func (f *File) fail(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return f.sandbox.fileError(op, f.name, err)
}

// Name is the path as it was given.
func (f *File) Name() string {
	if f == nil {
		return ""
	}
	return f.name
}

// Seek sets the place of the next Read or Write.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	if err := f.lock("seek"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	to, err := f.seek(offset, whence)
	return to, f.fail("seek", err)
}

func (f *File) seek(offset int64, whence int) (int64, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		if err := f.findPlace(); err != nil {
			return 0, err
		}
		offset += f.offset
	case io.SeekEnd:
		info, err := f.stat()
		if err != nil {
			return 0, err
		}
		offset += info.Size()
	default:
		return 0, fmt.Errorf("whence %d: %w", whence, fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, fmt.Errorf("to a negative offset: %w", fs.ErrInvalid)
	}
	if err := f.drop(); err != nil {
		return 0, err
	}
	f.offset, f.atTail = offset, false
	return offset, nil
}

// findPlace finds out the file's place after Write with os.O_APPEND.
func (f *File) findPlace() error {
	if !f.atTail {
		return nil
	}
	info, err := f.stat()
	if err != nil {
		return err
	}
	f.offset, f.atTail = info.Size(), false
	return nil
}

// Stat describes the file as it is now.
func (f *File) Stat() (fs.FileInfo, error) {
	if err := f.lock("stat"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	info, err := f.stat()
	if err != nil {
		return nil, f.fail("stat", err)
	}
	return info, nil
}

func (f *File) stat() (fs.FileInfo, error) {
	if err := f.usable(); err != nil {
		return nil, err
	}
	reply, err := f.ask(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Stat{Stat: true}})
	if err != nil {
		return nil, err
	}
	if reply.GetInfo() == nil {
		f.broken = unexpected(reply)
		return nil, f.broken
	}
	return newInfo(reply.GetInfo(), path.Base(f.name)), nil
}

// Truncate changes the file's size.
func (f *File) Truncate(size int64) error {
	return f.simple("truncate", &wirepb.FileRequest{Kind: &wirepb.FileRequest_Truncate{Truncate: size}}, func() error {
		err := f.mayWrite()
		if err == nil && size < 0 {
			err = fmt.Errorf("to a negative size: %w", fs.ErrInvalid)
		}
		if err == nil {
			err = f.findPlace() // which stays
		}
		return err
	})
}

// Sync returns when all that was written is in the sandbox's file, and has the sandbox's system write it to its disk, if it has one.
func (f *File) Sync() error {
	return f.simple("sync", &wirepb.FileRequest{Kind: &wirepb.FileRequest_Sync{Sync: true}}, f.usable)
}

// simple asks for what is answered by Done, unless check, which has the file for itself, finds an error.
func (f *File) simple(op string, request *wirepb.FileRequest, check func() error) error {
	if err := f.lock(op); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if err := check(); err != nil {
		return f.fail(op, err)
	}
	reply, err := f.ask(request)
	if err == nil && !reply.GetDone() {
		f.broken = unexpected(reply)
		err = f.broken
	}
	return f.fail(op, err)
}

// Close closes the file. It fails if something that was written did not arrive. A second Close fails with fs.ErrClosed.
func (f *File) Close() error {
	if err := f.lock("close"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	_, err := f.commit(false)
	return f.fail("close", err)
}

// commit closes the file and returns what the sandbox has counted. If check is true the sandbox compares what it got with what was sent.
func (f *File) commit(check bool) (*wirepb.Closed, error) {
	if f.closed {
		return nil, fs.ErrClosed
	}
	f.closed = true
	defer f.end()
	defer f.running.noteFile(f, false)
	if f.broken != nil {
		return nil, f.broken
	}
	reply, err := f.ask(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Close{Close: &wirepb.Commit{Check: check, Size: f.written, Crc32C: f.sum}}})
	switch {
	case err != nil:
		return nil, err
	case reply.GetClosed() == nil:
		return nil, unexpected(reply)
	}
	return reply.GetClosed(), nil
}

// ReadDir is that of *os.File, but entries are read once, and sorted by name.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) {
	if err := f.lock("readdir"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	switch err := f.usable(); {
	case err != nil:
		return nil, f.fail("readdir", err)
	case !f.folder:
		return nil, f.fail("readdir", syscall.ENOTDIR)
	}
	if f.offset == 0 { // once: who removes what was returned misses nothing of the rest
		entries, err := f.list()
		if err != nil {
			return nil, f.fail("readdir", err)
		}
		f.entries = entries
	}
	rest := f.entries[min(int(f.offset), len(f.entries)):]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	f.offset += int64(len(rest))
	return slices.Clip(rest), nil // the caller may append to it
}

// list asks for the entries of the folder that is open, whatever has its path by now. If the sandbox can't read it, it stays usable.
func (f *File) list() ([]fs.DirEntry, error) {
	entries := []fs.DirEntry{}
	reply, err := f.ask(&wirepb.FileRequest{Kind: &wirepb.FileRequest_List{List: true}})
	for err == nil && !reply.GetDone() {
		switch listing := reply.GetListing(); {
		case listing == nil:
			err = unexpected(reply)
		case listing.GetFailure() != nil:
			return nil, remoteFailure(listing.GetFailure())
		default:
			entries, err = appendEntries(entries, listing)
		}
		if err != nil {
			f.broken = err // there may be more
			return nil, err
		}
		reply, err = f.receive()
	}
	return entries, err
}
