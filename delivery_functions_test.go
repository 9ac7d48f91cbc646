package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx"
)

// counts are how often Count began for a key, in the process where it runs.
var counts = struct {
	sync.Mutex
	began map[string]int
}{began: map[string]int{}}

// Count notes that it began, and returns when its context ends or a time has passed.
func Count(ctx context.Context, key string, d time.Duration) (int, error) {
	counts.Lock()
	counts.began[key]++
	n := counts.began[key]
	counts.Unlock()
	if d == 0 {
		return n, nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return n, nil
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

func began(key string) int {
	counts.Lock()
	defer counts.Unlock()
	return counts.began[key]
}

// Size returns how long a text is.
func Size(_ context.Context, text string) (int, error) { return len(text), nil }

// Meet waits until so many calls of it run in its process at the same time, and returns how many it saw.
func Meet(ctx context.Context, n int) (int, error) {
	meeting.Lock()
	meeting.here++
	meeting.Unlock()
	for {
		meeting.Lock()
		here := meeting.here
		meeting.Unlock()
		if here >= n {
			return here, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return here, ctx.Err()
		}
	}
}

var meeting struct {
	sync.Mutex
	here int
}

// End appends a line to a file as its first statement, and then ends its process in some way.
func End(ctx context.Context, path, how string) (int, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	if _, err := file.WriteString("x\n"); err != nil {
		return 0, err
	}
	if err := file.Close(); err != nil {
		return 0, err
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return 0, err
	}
	switch how {
	case "return":
		return 1, nil
	case "fail":
		return 0, ErrOdd
	case "panic":
		panic("at once")
	case "exit":
		os.Exit(3)
	case "panic elsewhere":
		go func() { panic("elsewhere") }()
	case "kill":
		err = self.Kill()
	case "stop":
		err = stopSelf()
	case "cut":
		err = closeConn()
	case "ignore":
		select {}
	}
	if err != nil {
		return 0, err
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// lines returns how many lines a file has, 0 if there is none.
func lines(path string) int {
	content, _ := os.ReadFile(path)
	return strings.Count(string(content), "\n")
}

// Meta returns what the call carries under a key.
func Meta(ctx context.Context, key string) (string, error) {
	info, _ := sbx.Info(ctx)
	value, ok := info.Metadata[key]
	if !ok {
		return "", errors.New("no such metadata")
	}
	return value, nil
}

func init() {
	sbx.InterceptRemote(func(ctx context.Context, call sbx.CallInfo, next func(context.Context) error) error {
		if call.Metadata["refuse"] != "" {
			return ErrOdd
		}
		if call.Metadata["deeper"] != "" {
			call.Metadata["deeper"] += "!"
		}
		switch call.Metadata["remote"] {
		case "nothing":
			return nil
		case "twice":
			_ = next(ctx)
		}
		return next(ctx)
	})
}

// PanicWith panics with an error.
func PanicWith(_ context.Context, what string) (int, error) {
	if what == "quits" {
		panic(quitError{})
	}
	panic(fmt.Errorf("wrapped: %w", ErrOdd))
}

// WhereAmI is Where for a map.
func WhereAmI(ctx context.Context, _ int) (sbx.CallInfo, error) { return Where(ctx) }
