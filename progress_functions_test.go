package sbx_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
)

// Steps tells each of its steps, faster than they are sent.
func Steps(ctx context.Context, steps int) (int, error) {
	for i := range steps {
		sbx.Progress(ctx, int64(i+1), int64(steps), "step "+strconv.Itoa(i+1))
	}
	return steps, nil
}

// Tell tells a note, and waits for its context's end.
func Tell(ctx context.Context, note string) error {
	sbx.Progress(ctx, 3, 7, note)
	<-ctx.Done()
	return ctx.Err()
}

// TellLate tells something when it has returned, and whatever is called next waits for that.
func TellLate(ctx context.Context) (int, error) {
	go func() {
		for range 1000 {
			sbx.Progress(ctx, 1, 1, strings.Repeat("late", 1000))
		}
	}()
	return 0, nil
}

// Seconds takes as many seconds as n says, and fails if that is negative.
func Seconds(ctx context.Context, n int) (int, error) {
	sbx.Progress(ctx, 1, 2, "slow")
	select {
	case <-time.After(time.Duration(max(n, -n)) * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if n < 0 {
		return 0, errors.New("negative")
	}
	return n, nil
}

// Slowly takes long enough that a map of some can be watched. Its note is not to move the cursor.
func Slowly(ctx context.Context, n int) (int, error) {
	sbx.Progress(ctx, 0, 0, "\x1b[2Jnote")
	time.Sleep(10 * time.Millisecond)
	return n, nil
}
