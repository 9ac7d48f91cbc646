package sbx_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
)

// Try notes that it began, and does what plan says for this run of the call, the last part of it for all further ones: "ok" returns
// the run's number, "fail" an error, "panic" panics, "exit" ends the process, "wait" waits for the context's end, and a time is slept
// before what follows the colon, whatever the context says.
func Try(ctx context.Context, key, plan string) (int, error) {
	info, _ := sbx.Info(ctx)
	counts.Lock()
	counts.began[key]++
	counts.began[fmt.Sprint(key, " run ", info.Attempt)]++
	counts.Unlock()
	parts := strings.Fields(plan)
	what := parts[min(info.Attempt, len(parts))-1]
	if text, then, found := strings.Cut(what, ":"); found {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			counts.Lock()
			counts.began[key+" cancelled"]++
			counts.Unlock()
			return 0, ctx.Err()
		}
		what = then
	}
	switch what {
	case "fail":
		return 0, fmt.Errorf("run %d: %w", info.Attempt, ErrOdd)
	case "panic":
		panic("as planned")
	case "exit":
		os.Exit(3)
	case "wait":
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return info.Attempt, nil
}

// Bomb leaves a goroutine behind that ends the process after d.
func Bomb(_ context.Context, d time.Duration) error {
	go func() {
		time.Sleep(d)
		os.Exit(4)
	}()
	return nil
}
