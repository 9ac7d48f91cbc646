package sbx_test

import (
	"context"
	"runtime"
	"runtime/debug"
)

// Allocate uses so many MiB of memory.
func Allocate(_ context.Context, mib int) (int, error) {
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return len(memory) >> 20, nil
}

// Measure needs memory for its argument only.
func Measure(_ context.Context, data []byte) (int, error) { return len(data), nil }

// MemoryLimit is what the Go runtime believes to have, in MiB.
func MemoryLimit(context.Context) (int, error) { return int(debug.SetMemoryLimit(-1) >> 20), nil }

// HoldThreads keeps so many threads of the system.
func HoldThreads(ctx context.Context, n int) (int, error) {
	for range n {
		go func() {
			runtime.LockOSThread() // nobody else's while the goroutine lasts
			<-ctx.Done()
		}()
	}
	<-ctx.Done()
	return n, ctx.Err()
}
