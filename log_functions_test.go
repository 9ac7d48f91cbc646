package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx"
)

// lazy is asked for its value when it is logged.
type lazy struct{ seen *bool }

func (l lazy) LogValue() slog.Value {
	*l.seen = true
	return slog.StringValue("asked")
}

// point has no kind of its own.
type point struct{ X, Y int }

var logTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))

// LogKinds logs a record with values of all kinds, and returns whether it was asked for the lazy one here.
func LogKinds(ctx context.Context, message string) (asked bool, err error) {
	logger := sbx.Log(ctx).With("run", 7).WithGroup("outer").With("with", true).WithGroup("inner")
	logger.WarnContext(ctx, message,
		slog.String("text", "a\nb"), slog.Int64("int", -1), slog.Uint64("uint", 1<<63), slog.Float64("float", 0.5), slog.Bool("bool", true),
		slog.Duration("duration", time.Minute), slog.Time("time", logTime), slog.Any("any", point{1, 2}), slog.Any("error", ErrOdd),
		slog.Any("lazy", lazy{&asked}), slog.Group("group", slog.Int("in", 1)), slog.Any("nil", nil), slog.Any("bytes", []byte("b\xff")),
	)
	logger.WithGroup("empty").Warn("no attributes")
	return asked, nil
}

// LogMany logs n records from each of some goroutines.
func LogMany(ctx context.Context, goroutines, n int) (int, error) {
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range n {
				sbx.Log(ctx).Info("many", "goroutine", g, "i", i)
			}
		})
	}
	all.Wait()
	return goroutines * n, nil
}

// LogLevels returns which of the levels the call's logger is enabled for.
func LogLevels(ctx context.Context, levels []slog.Level) (enabled []slog.Level, err error) {
	for _, level := range levels {
		if sbx.Log(ctx).Enabled(ctx, level) {
			enabled = append(enabled, level)
			sbx.Log(ctx).Log(ctx, level, "enabled")
		}
	}
	return enabled, nil
}

// PrintAndWait prints, and returns when its context ends.
func PrintAndWait(ctx context.Context, text string) (int, error) {
	fmt.Println(text)
	<-ctx.Done()
	return 0, ctx.Err()
}

// Gush prints n bytes in lines of 4 KiB.
func Gush(_ context.Context, n int) (int, error) {
	line := []byte(strings.Repeat("x", 4095) + "\n")
	printed := 0
	for printed < n {
		m, err := os.Stdout.Write(line[:min(len(line), n-printed)])
		printed += m
		if err != nil {
			return printed, err
		}
	}
	return printed, nil
}

// Outlast logs through its context after it has returned, when the file appears.
func Outlast(ctx context.Context, path string) (int, error) {
	logger := sbx.Log(ctx)
	go func() {
		for {
			if _, err := os.Stat(path); err == nil {
				logger.Info("late")
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
	return 0, nil
}

// Leak ends in some way, with a word about none of its environment.
func Leak(_ context.Context, how string) (string, error) {
	switch how {
	case "error":
		return "", fmt.Errorf("read: %w", errors.Join(ErrOdd, io.EOF))
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(1)
	case "crash":
		go panic("on another goroutine")
		select {}
	}
	return how, nil
}

// LogAndMark logs n records of 1 KB, and then touches a file.
func LogAndMark(ctx context.Context, path string, n int) (int, error) {
	for range n {
		sbx.Log(ctx).Info("many", "text", strings.Repeat("x", 1000))
	}
	return n, os.WriteFile(path, nil, 0o600)
}

func Greet(ctx context.Context, name string) error {
	sbx.Log(ctx).Info("greeting", "name", name)
	return nil
}
