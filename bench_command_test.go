//go:build linux

package sbx_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
)

// BenchmarkCommand is a short command in a warm sandbox, beside the same one by os/exec on the host.
func BenchmarkCommand(b *testing.B) {
	b.Run("host", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		b.ReportAllocs()
		for b.Loop() {
			if err := sb.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCommandOutput is 64 MiB of a command's output.
func BenchmarkCommandOutput(b *testing.B) {
	const size = "67108864"
	b.Run("host", func(b *testing.B) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			cmd := exec.Command("head", "-c", size, "/dev/zero")
			cmd.Stdout = struct{ io.Writer }{io.Discard}
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			cmd := sb.Command("head", "-c", size, "/dev/zero")
			cmd.Stdout = io.Discard
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCommandInput is 64 MiB of a command's input.
func BenchmarkCommandInput(b *testing.B) {
	input := func() io.Reader { return io.LimitReader(zeros{}, 64<<20) }
	b.Run("host", func(b *testing.B) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			cmd := exec.Command("tail", "-c", "1")
			cmd.Stdin = input()
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			cmd := sb.Command("tail", "-c", "1")
			cmd.Stdin = input()
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func benchmarkCommands(b *testing.B, bench func(b *testing.B, sb *sbx.Sandbox)) {
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		b.Run(d.Name(), func(b *testing.B) {
			session, err := sbx.Open(b.Context(), sbx.Driver(d), sbx.Logger(slog.New(slog.DiscardHandler)))
			if err != nil {
				b.Fatal(err)
			}
			sb := session.Sandbox()
			if err := sb.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			bench(b, sb)
			if err := session.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkCopyTo copies a file of 64 MiB into a sandbox.
func BenchmarkCopyTo(b *testing.B) {
	from := filepath.Join(b.TempDir(), "from")
	if err := os.WriteFile(from, bigFile(), 0o600); err != nil {
		b.Fatal(err)
	}
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			if err := sb.CopyTo(b.Context(), from, "file"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCopyFrom copies a file of 64 MiB out of a sandbox.
func BenchmarkCopyFrom(b *testing.B) {
	to := filepath.Join(b.TempDir(), "to")
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		if err := sb.WriteFile(b.Context(), "file", bigFile(), 0o600); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(64 << 20)
		for b.Loop() {
			if err := sb.CopyFrom(b.Context(), "file", to); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCopyTreeTo copies a folder of 1,000 small files into a sandbox.
func BenchmarkCopyTreeTo(b *testing.B) {
	from := smallFiles(b)
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		for b.Loop() {
			if err := sb.CopyTo(b.Context(), from, "tree"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCopyTreeFrom copies a folder of 1,000 small files out of a sandbox.
func BenchmarkCopyTreeFrom(b *testing.B) {
	from, to := smallFiles(b), filepath.Join(b.TempDir(), "to")
	benchmarkCommands(b, func(b *testing.B, sb *sbx.Sandbox) {
		if err := sb.CopyTo(b.Context(), from, "tree"); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := sb.CopyFrom(b.Context(), "tree", to); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// smallFiles makes a folder of 1,000 files of 4 KiB.
func smallFiles(b *testing.B) string {
	folder, content := b.TempDir(), bytes.Repeat([]byte("sbx "), 1<<10)
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file-%d", i)), content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return folder
}

// bigFile is 64 MiB without zeros, which would become holes.
func bigFile() []byte { return bytes.Repeat([]byte("sbx "), 16<<20) }
