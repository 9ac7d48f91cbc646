package sbx

import (
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Write writes at the file's place, or at its end if it was opened with os.O_APPEND, and moves the place behind that. It returns when the bytes are on their way: errors of writing may be a later write's, Sync's or Close's.
func (f *File) Write(p []byte) (int, error) {
	if err := f.lock("write"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	n, err := f.write(p, f.offset)
	f.offset += int64(n)
	f.atTail = f.atTail || f.open.GetAppend() && n > 0
	return n, f.fail("write", err)
}

// WriteAt writes at offset, like [File.Write]; not in a file that was opened with os.O_APPEND. It does not move the place of Write.
func (f *File) WriteAt(p []byte, offset int64) (int, error) {
	if err := f.lock("write"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if f.open.GetAppend() || offset < 0 {
		return 0, f.fail("write", fmt.Errorf("at an offset of %d, or in a file that was opened to append: %w", offset, fs.ErrInvalid))
	}
	n, err := f.write(p, offset)
	return n, f.fail("write", err)
}

func (f *File) write(p []byte, offset int64) (n int, err error) {
	if err := f.mayWrite(); err != nil {
		return 0, err
	}
	if isFarAway(offset, p) && !f.open.GetAppend() {
		return 0, errFarAway
	}
	if err := f.drop(); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		piece := p[:min(len(p), filePiece)]
		if err := f.send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Write{Write: &wirepb.Write{Data: piece, Offset: offset}}}); err != nil {
			return n, err
		}
		if offset == f.written {
			f.written += int64(len(piece))
			f.sum = crc32.Update(f.sum, castagnoli(), piece)
		}
		n, offset, p = n+len(piece), offset+int64(len(piece)), p[len(piece):]
	}
	return n, nil
}

// maxHole is how much of a hole waits to be told: the sandbox sums up its zeros, too, and is to hear of an end meanwhile.
const maxHole = 64 << 20

// extend appends to a file that is written whole what the caller has put into space. Zeros become a hole, which is told as a whole.
func (f *File) extend(data []byte) error {
	if isZero(data) {
		f.written += int64(len(data))
		f.sum = crc32.Update(f.sum, castagnoli(), data)
		if f.hole += len(data); f.hole < maxHole {
			return nil
		}
		return f.endHole()
	}
	if err := f.endHole(); err != nil {
		return err
	}
	if len(f.lent.windows) > 0 {
		return f.writeWindow(len(data))
	}
	_, err := f.write(data, f.written)
	return err
}

// endHole tells of a hole that extend has left.
func (f *File) endHole() error {
	if f.hole == 0 {
		return nil
	}
	f.hole = 0
	reply, err := f.ask(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Truncate{Truncate: f.written}})
	if err == nil && !reply.GetDone() {
		err = unexpected(reply)
	}
	return err
}
