//go:build unix

package ledger

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Map maps the ledger in an open file, which may be closed afterwards.
func Map(file *os.File) (*Ledger, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("map the ledger: %w", err)
	}
	var memory []byte
	controlErr := raw.Control(func(fd uintptr) { // not closed meanwhile
		var stat unix.Stat_t
		if err = unix.Fstat(int(fd), &stat); err == nil && stat.Size != Size {
			err = fmt.Errorf("it has %d bytes, not %d", stat.Size, Size)
		}
		if err == nil {
			memory, err = unix.Mmap(int(fd), 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		}
	})
	if err = errors.Join(controlErr, err); err != nil {
		return nil, fmt.Errorf("map the ledger: %w", err)
	}
	return over(memory), nil
}

func unmap(memory []byte) { _ = unix.Munmap(memory) }

// sized gives the file its length.
func sized(file *os.File) (*os.File, error) {
	if err := file.Truncate(Size); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("make a ledger: %w", err)
	}
	return file, nil
}
