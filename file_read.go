package sbx

import (
	"fmt"
	"io"
	"io/fs"
	"math"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Read reads the next bytes. At the end of the file it returns io.EOF. It reads ahead: what others change there meanwhile is seen after a Seek, or by ReadAt.
func (f *File) Read(p []byte) (int, error) {
	if err := f.lock("read"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	n, err := f.read(p)
	return n, f.fail("read", err)
}

func (f *File) read(p []byte) (int, error) {
	if err := f.mayRead(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.findPlace(); err != nil {
		return 0, err
	}
	for len(f.ahead) == 0 {
		if f.atEnd && !f.coming {
			f.atEnd = false // it may have grown when it is read again
			return 0, io.EOF
		}
		if err := f.fill(max(len(p), readAhead)); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.ahead)
	f.ahead = f.ahead[n:]
	f.offset += int64(n)
	return n, nil
}

// fill takes one more piece of what is next in order.
func (f *File) fill(length int) error {
	if !f.coming {
		if err := f.askFor(length); err != nil {
			return err
		}
	}
	piece, err := f.piece()
	if err != nil {
		return err
	}
	f.ahead, f.coming, f.atEnd = piece.GetData(), piece.GetMore(), piece.GetEnd()
	if len(f.ahead) == 0 && f.coming {
		return f.protocol("an empty piece")
	}
	return nil
}

// askFor asks for what is next in order, for fill to take.
func (f *File) askFor(length int) error {
	if f.offset == math.MaxInt64 {
		return errFarAway
	}
	request := &wirepb.Read{Length: min(int64(length), math.MaxInt64-f.offset), Offset: f.offset}
	err := f.send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Read{Read: request}})
	f.coming = err == nil
	return err
}

func (f *File) piece() (*wirepb.Piece, error) {
	reply, err := f.receive()
	if err != nil {
		return nil, err
	}
	if reply.GetData() == nil {
		f.broken = unexpected(reply)
		return nil, f.broken
	}
	return reply.GetData(), nil
}

func (f *File) protocol(what string) error {
	f.broken = fmt.Errorf("the sandbox sent %s, which can't be", what)
	return f.broken
}

// drop forgets what was read ahead, and waits for what is being written from windows.
func (f *File) drop() error {
	for f.coming {
		piece, err := f.piece()
		if err != nil {
			return err
		}
		f.coming = piece.GetMore()
	}
	for f.lent.count > 0 {
		if err := f.settle(); err != nil {
			return err
		}
	}
	f.ahead, f.atEnd = nil, false
	return nil
}

// ReadAt reads from offset, until p is full or the file ends. It does not move the place of Read.
func (f *File) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.lock("read"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	n, err := f.readAt(p, offset)
	return n, f.fail("read", err)
}

func (f *File) readAt(p []byte, offset int64) (n int, err error) {
	switch err := f.mayRead(); {
	case err != nil:
		return 0, err
	case offset < 0:
		return 0, fmt.Errorf("negative offset: %w", fs.ErrInvalid)
	case len(p) == 0:
		return 0, nil
	case isFarAway(offset, p):
		return 0, errFarAway
	}
	if err := f.drop(); err != nil {
		return 0, err
	}
	request := &wirepb.Read{Length: int64(len(p)), Offset: offset}
	if err := f.send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Read{Read: request}}); err != nil {
		return 0, err
	}
	for {
		piece, err := f.piece()
		if err != nil {
			return n, err
		}
		if len(piece.GetData()) > len(p)-n {
			return n, f.protocol("more than was asked for")
		}
		n += copy(p[n:], piece.GetData())
		switch {
		case piece.GetMore():
		case n < len(p):
			return n, io.EOF
		default:
			return n, nil
		}
	}
}
