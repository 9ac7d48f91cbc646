package sbx

import (
	"hash/crc32"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// windowsFrom is how long a file must be for windows: below, they save nothing.
const windowsFrom = 1 << 20

// lent are the windows of the memory shared with the worker that one copy has. The content passes there, in order, and messages only say where.
type lent struct {
	windows []*ledger.Window // none where there is none to be had: the content is in the messages then
	next    int              // of them, which is lent next
	count   int              // how many before that one the worker has
	asked   int64            // of the file, by reads
	buffer  []byte           // what there is instead of windows, for who writes
}

// takeWindows gets windows for a copy of size bytes. Whoever calls it calls free at the end.
func (f *File) takeWindows(size int64) {
	if size < windowsFrom {
		return
	}
	for {
		window := f.running.worker.Window()
		if window == nil {
			return
		}
		f.lent.windows = append(f.lent.windows, window)
	}
}

func (l *lent) free() {
	for _, window := range l.windows {
		window.Free()
	}
	l.windows, l.count = nil, 0
}

// lend lets the worker have the next window.
func (l *lent) lend() *wirepb.Window {
	number, loan := l.windows[l.next].Lend()
	l.next = (l.next + 1) % len(l.windows)
	l.count++
	return &wirepb.Window{Number: uint32(number), Loan: loan}
}

// back is the window that was lent first.
func (l *lent) back() *ledger.Window {
	window := l.windows[(l.next-l.count+len(l.windows))%len(l.windows)]
	l.count--
	window.Returned()
	return window
}

// settle takes the answer to one loan, whatever it is.
func (f *File) settle() error {
	reply, err := f.receive()
	if err != nil {
		return err
	}
	if !reply.GetDone() && reply.GetData() == nil {
		f.broken = unexpected(reply)
		return f.broken
	}
	f.lent.back()
	return nil
}

// space is where the next piece of a file that is written whole is to be put, for extend.
func (f *File) space() ([]byte, error) {
	l := &f.lent
	if len(l.windows) == 0 {
		return l.buffer, nil
	}
	if l.count == len(l.windows) {
		if err := f.settle(); err != nil {
			return nil, err
		}
	}
	return l.windows[l.next].Memory, nil
}

// writeWindow appends the first n bytes of space to the file.
func (f *File) writeWindow(n int) error {
	data := f.lent.windows[f.lent.next].Memory[:n]
	f.sum = crc32.Update(f.sum, castagnoli(), data)
	write := &wirepb.Write{Offset: f.written, Window: f.lent.lend(), Length: int64(n)}
	f.written += int64(n)
	return f.send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Write{Write: write}})
}

// next takes the next piece of a file that is read whole, from its begin. It may be used until the next one is taken; atEnd and coming tell when there is none.
func (f *File) next() ([]byte, error) {
	l := &f.lent
	if len(l.windows) == 0 {
		err := f.fill(copyAhead)
		f.offset += int64(len(f.ahead))
		return f.ahead, err
	}
	for l.count < len(l.windows) {
		read := &wirepb.Read{Offset: l.asked, Length: ledger.WindowSize, Window: l.lend()}
		l.asked += read.Length
		if err := f.send(&wirepb.FileRequest{Kind: &wirepb.FileRequest_Read{Read: read}}); err != nil {
			return nil, err
		}
	}
	piece, err := f.piece()
	if err != nil {
		return nil, err
	}
	n := piece.GetLength()
	if n < 0 || n > ledger.WindowSize || n < ledger.WindowSize && !piece.GetEnd() || piece.GetMore() || len(piece.GetData()) > 0 {
		return nil, f.protocol("a piece that is not as it was asked for")
	}
	f.atEnd = piece.GetEnd()
	return l.back().Memory[:n], nil
}
