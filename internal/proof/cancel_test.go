package proof

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
)

// Tell prints that it runs, and at what time its context ends.
func Tell(ctx context.Context) (string, error) {
	fmt.Println("runs")
	<-ctx.Done()
	fmt.Println("ended", time.Now().UnixNano())
	return "", ctx.Err()
}

// listener is a log's handler that hands on what Tell prints.
type listener chan string

func (listener) Enabled(context.Context, slog.Level) bool { return true }

func (l listener) Handle(_ context.Context, record slog.Record) error {
	if record.Message == "runs" || strings.HasPrefix(record.Message, "ended ") {
		l <- record.Message
	}
	return nil
}

func (l listener) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l listener) WithGroup(string) slog.Handler { return l }

// BenchmarkCancel is the time from the caller's cancel to the end of the function's context in the sandbox. Both processes read
// the same clock.
func BenchmarkCancel(b *testing.B) {
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		b.Run(d.Name(), func(b *testing.B) {
			lines := make(listener, 1)
			session, err := sbx.Open(b.Context(), sbx.Driver(d), sbx.Logger(slog.New(lines)))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = session.Close() }()
			tell := session.Function0(Tell)
			var times []time.Duration
			for b.Loop() {
				call := tell.Spawn(b.Context())
				<-lines // it runs
				cancelled := time.Now().UnixNano()
				call.Cancel()
				ended, err := strconv.ParseInt(strings.TrimPrefix(<-lines, "ended "), 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Duration(ended-cancelled))
				<-call.Done()
			}
			slices.Sort(times)
			b.ReportMetric(0, "ns/op") // which is mostly the call
			for _, percent := range []int{50, 99} {
				b.ReportMetric(float64(times[len(times)*percent/100])/1e3, fmt.Sprintf("p%d-µs", percent))
			}
		})
	}
}
