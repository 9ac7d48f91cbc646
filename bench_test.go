package sbx_test

import (
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
)

func benchmarkEverywhere(b *testing.B, bench func(b *testing.B, session *sbx.Session)) {
	for _, d := range []driver.Driver{inprocess.New(nil), process.New(), local.New(nil)} {
		b.Run(d.Name(), func(b *testing.B) {
			session, err := sbx.Open(b.Context(), sbx.Driver(d), sbx.Logger(slog.New(slog.DiscardHandler)))
			if err != nil {
				b.Fatal(err)
			}
			bench(b, session)
			if err := session.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkCall is one warm call at a time.
func BenchmarkCall(b *testing.B) {
	benchmarkEverywhere(b, func(b *testing.B, session *sbx.Session) {
		double := session.Function(Double)
		if _, err := double.Call(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := double.Call(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInFlight is the time of one of many calls at a time, in one sandbox.
func BenchmarkInFlight(b *testing.B) {
	benchmarkEverywhere(b, func(b *testing.B, session *sbx.Session) {
		double := session.Function(Double, sbx.Concurrency(64))
		b.ReportAllocs()
		b.SetParallelism(64 / runtime.GOMAXPROCS(0))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := double.Call(b.Context(), 1); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkMap is the time of one input among many.
func BenchmarkMap(b *testing.B) {
	benchmarkEverywhere(b, func(b *testing.B, session *sbx.Session) {
		double := session.Function(Double)
		b.ReportAllocs()
		for _, err := range double.Map(b.Context(), numbers(b.N)) {
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMapJournal is the time of one input among many whose results go to the disk first, and that of one that is there already.
func BenchmarkMapJournal(b *testing.B) {
	benchmarkEverywhere(b, func(b *testing.B, session *sbx.Session) {
		double := session.Function(Double)
		path := filepath.Join(b.TempDir(), "journal")
		for _, name := range []string{"computed", "recalled"} {
			began := time.Now()
			for _, err := range double.Map(b.Context(), numbers(b.N), sbx.Journal(path)) {
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), name+"/s")
		}
	})
}

// BenchmarkFirstCall is a session's whole life around one call: Open, a fresh sandbox, Close.
func BenchmarkFirstCall(b *testing.B) {
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		b.Run(d.Name(), func(b *testing.B) {
			for b.Loop() {
				session, err := sbx.Open(b.Context(), sbx.Driver(d), sbx.Logger(slog.New(slog.DiscardHandler)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := session.Function(Double).Call(b.Context(), 1); err != nil {
					b.Fatal(err)
				}
				if err := session.Close(); err != nil {
					b.Error(err)
				}
			}
		})
	}
}
