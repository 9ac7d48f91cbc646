package ledger

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// New makes a ledger in memory. The caller closes it.
func New() (*os.File, error) {
	fd, err := unix.MemfdCreate("ledger", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a ledger: %w", err)
	}
	file, err := sized(os.NewFile(uintptr(fd), "ledger"))
	if err != nil {
		return nil, err
	}
	// A worker that shrank it would die of its own access; one that grew it could fill memory.
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("seal a ledger: %w", err)
	}
	return file, nil
}
