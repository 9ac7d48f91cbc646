//go:build unix

package journal

import (
	"os"
	"syscall"
)

// named refuses a file that has no name any more.
func named(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Sys().(*syscall.Stat_t).Nlink == 0 {
		return ErrRemoved
	}
	return nil
}
