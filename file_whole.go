package sbx

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// ReadFile returns what is in a file, up to [MaxReadFile].
func (sb *Sandbox) ReadFile(ctx context.Context, name string) ([]byte, error) {
	data, err := sb.readFile(ctx, name)
	if err != nil {
		return nil, sb.fileError("read", name, err)
	}
	return data, nil
}

func (sb *Sandbox) readFile(ctx context.Context, name string) ([]byte, error) {
	f, err := sb.opening(ctx, &wirepb.Open{Path: []byte(name), Read: true})
	if err != nil {
		return nil, err
	}
	defer f.end()
	if err := f.askFor(readAhead); err != nil {
		return nil, err
	}
	info, err := f.opened()
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, min(max(info.GetSize(), 0), MaxReadFile)+1)
	for {
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		n, err := f.read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case errors.Is(err, io.EOF):
			closed, err := f.commit(false)
			if err == nil {
				err = compare(closed, int64(len(data)), crc32.Checksum(data, castagnoli()))
			}
			return data, err
		case err != nil:
			return nil, err
		case len(data) > MaxReadFile:
			return nil, fmt.Errorf("%w: more than %d bytes; use Sandbox.Open", ErrFileTooLong, MaxReadFile)
		}
	}
}

// compare is an error if what was read is not what was sent.
func compare(closed *wirepb.Closed, size int64, sum uint32) error {
	if closed.GetSize() != size || closed.GetCrc32C() != sum {
		return fmt.Errorf("%d bytes with checksum %08x arrived, and %d with %08x were sent", size, sum, closed.GetSize(), closed.GetCrc32C())
	}
	return nil
}

// ErrFileTooLong is wrapped by the error of [Sandbox.ReadFile] for a file that is longer than [MaxReadFile].
var ErrFileTooLong = errors.New("the file is too long")

// WriteFile writes a file whole: what is read at its path is the old content or the new one, and nothing else, also if something ends in between. A new file
// has the mode before the sandbox's mask, 0o022; one that is there keeps its own, and is not replaced if the sandbox's user may not write to it. Links are followed. Until it is whole it has another name in the same folder,
// which begins with .sbx- and which no listing of this sandbox shows. Another one that has the same folder mounted lists it, and CopyFrom copies it from there.
// In a folder of this machine, which is mounted for writing or there without isolation, one is left if the sandbox or this program is killed meanwhile. Stop and
// Close remove it.
func (sb *Sandbox) WriteFile(ctx context.Context, name string, data []byte, mode fs.FileMode) error {
	f, err := sb.opening(ctx, &wirepb.Open{Path: []byte(name), Write: true, Atomic: true, Mode: uint32(mode.Perm())})
	if err == nil {
		defer f.end()
		if _, err = f.write(data, 0); err == nil {
			_, err = f.commit(true)
		}
	}
	if err != nil {
		return sb.fileError("write", name, err)
	}
	return nil
}
