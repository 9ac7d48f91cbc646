//go:build !linux

package ledger

import (
	"errors"
	"fmt"
	"os"
)

// New makes a ledger in a file without a name. The caller closes it.
func New() (*os.File, error) {
	file, err := os.CreateTemp("", "sbx-ledger")
	if err != nil {
		return nil, fmt.Errorf("make a ledger: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("make a ledger: %w", errors.Join(err, file.Close()))
	}
	return sized(file)
}
