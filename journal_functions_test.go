package sbx_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Tally writes down, in its own line of a file in folder, that it ran for n, and fails in many ways, each of which n says.
func Tally(ctx context.Context, folder string, n int) (string, error) {
	file, err := os.OpenFile(filepath.Join(folder, "ran"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(file, n); err != nil {
		return "", err
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	switch n % 10 {
	case 3:
		_, err := Half(ctx, n)
		return "", err
	case 5:
		panic(fmt.Errorf("boom: %w", ErrOdd))
	case 7:
		time.Sleep(time.Second / 4) // longer than the timeout
		return "", ctx.Err()
	}
	return strings.Repeat("x", n), nil
}

// TallyOne is Tally of an input as a map has it, and ends its process for some.
func TallyOne(ctx context.Context, in Tallied) (string, error) {
	if in.N%10 == 9 {
		_, _ = Tally(ctx, in.Folder, 0)
		os.Exit(3)
	}
	return Tally(ctx, in.Folder, in.N)
}

type Tallied struct {
	Folder string
	N      int
}
