package proof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// ledgerVariable names, in a sandbox, the file outside of it in which functions note that they run.
const ledgerVariable = "LEDGER"

// Once notes that it runs for n. It is called at most once.
func Once(_ context.Context, n int64) (int64, error) { return noted(n) }

// Again is Once, and is called at least once.
func Again(_ context.Context, n int64) (int64, error) { return noted(n) }

// noted writes one short line, which is whole whoever else writes.
func noted(n int64) (int64, error) {
	file, err := os.OpenFile(os.Getenv(ledgerVariable), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("the ledger: %w", err)
	}
	_, err = file.Write(append(strconv.AppendInt(nil, n, 10), '\n'))
	return -n, errors.Join(err, file.Close())
}

// Harm does something to the sandbox in which it runs, and whatever else runs there.
func Harm(ctx context.Context, how string) error {
	switch how {
	case "exit":
		os.Exit(exitStatus)
	case "panic elsewhere":
		go func() { panic(how) }()
		select {}
	case "disk":
		return fillDisk(ctx)
	case "memory":
		var held [][]byte
		for ctx.Err() == nil {
			page := make([]byte, 1<<20)
			for i := range page {
				page[i] = 1
			}
			held = append(held, page)
		}
		return fmt.Errorf("%d MiB: %w", len(held), ctx.Err())
	}
	return endProcess(how)
}

// fillDisk leaves no room in the folder for temporary files, and lives with it for a moment.
func fillDisk(ctx context.Context) error {
	file, err := os.CreateTemp("", "full")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = io.Copy(file, endless{})
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// endless is read for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
