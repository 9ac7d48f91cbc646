package ledger

import (
	"errors"
	"fmt"
	"os"
)

// Map fails: descriptors are not inherited here.
func Map(*os.File) (*Ledger, error) {
	return nil, fmt.Errorf("map the ledger: %w", errors.ErrUnsupported)
}

func unmap([]byte) {}

func sized(file *os.File) (*os.File, error) {
	return nil, errors.Join(errors.ErrUnsupported, file.Close())
}
