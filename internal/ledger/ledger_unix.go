//go:build unix

package ledger

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Map maps the ledger that is open as a descriptor, and closes that.
func Map(fd int) (*Ledger, error) {
	memory, err := unix.Mmap(fd, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the ledger: %w", err)
	}
	if err := unix.Close(fd); err != nil {
		return nil, fmt.Errorf("close the ledger: %w", err)
	}
	return over(memory), nil
}

// sized gives the file its length.
func sized(file *os.File) (*os.File, error) {
	if err := file.Truncate(Size); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("make a ledger: %w", err)
	}
	return file, nil
}
