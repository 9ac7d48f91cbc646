//go:build linux

// Sandboxes measures how long it takes to start and to stop a sandbox of the local driver, beside a plain process, bubblewrap and crun, all
// with the same program in them: this one. What is measured takes turns, so that other load on the machine meets all alike.
//
//	CGO_ENABLED=0 go run ./bench/sandboxes
//
// Peers that are not on PATH are left out.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

// workerVariable makes this program the one that is started: it says that it runs, and waits to be killed.
const workerVariable = "SBX_BENCH_WORKER"

// init comes before that of every package that has more to do, so that all that is measured is the start.
func init() {
	if os.Getenv(workerVariable) == "" {
		return
	}
	_, _ = os.NewFile(driver.HandshakeFD, "handshake").WriteString("ready\n")
	_, _ = io.Copy(io.Discard, os.NewFile(driver.ConnFD, "conn"))
	os.Exit(0)
}

// A peer starts something that runs this program's init above, and returns when it has said that it runs. end kills it, and returns
// when it is gone.
type peer struct {
	name  string
	start func(ctx context.Context) (end func() error, err error)
}

func main() {
	rounds := flag.Int("rounds", 40, "how often each is started")
	heap := flag.Int("heap", 1024, "MiB of heap that the program has in the second table")
	flag.Parse()
	if err := run(context.Background(), *rounds, *heap); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, heapMiB int) error {
	folder, err := os.MkdirTemp("", "sbx-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	session, err := local.New(nil).Open(ctx, driver.SessionSpec{
		ID: "bench", Logger: slog.New(slog.DiscardHandler),
		Worker: func(context.Context, driver.Platform) (string, error) { return "/proc/self/exe", nil },
	})
	if err != nil {
		return err
	}
	peers := []peer{{"exec", startPlain("/proc/self/exe")}, {"sbx, driver/local", startSandbox(session)}}
	others, err := installed(folder)
	if err != nil {
		return err
	}
	for _, p := range others {
		end, err := p.start(ctx)
		if err != nil {
			fmt.Printf("%s is left out: %v\n", p.name, err)
			continue
		}
		if err := end(); err != nil {
			return err
		}
		peers = append(peers, p)
	}
	for _, mib := range []int{0, heapMiB} {
		ballast := make([]byte, mib<<20)
		for i := 0; i < len(ballast); i += 4096 {
			ballast[i] = 1 // or it takes no memory
		}
		if err := table(ctx, peers, rounds, mib); err != nil {
			return err
		}
		_ = ballast[len(ballast):]
	}
	if err := parked(ctx, session); err != nil {
		return err
	}
	return session.Close(ctx)
}

// table measures all peers, one start of each in turn, and prints medians.
func table(ctx context.Context, peers []peer, rounds, heapMiB int) error {
	starts, stops := make([][]time.Duration, len(peers)), make([][]time.Duration, len(peers))
	for round := range rounds + 1 {
		for i, p := range peers {
			began := time.Now()
			end, err := p.start(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			up := time.Now()
			if err := end(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 { // the first ones warm the caches
				starts[i] = append(starts[i], up.Sub(began))
				stops[i] = append(stops[i], time.Since(up))
			}
		}
	}
	fmt.Printf("\nuser id %d, %d MiB of heap in the program, medians of %d\n\n", os.Geteuid(), heapMiB, rounds)
	fmt.Println("| | to the first byte | ratio to exec | kill, until all is gone |")
	fmt.Println("| --- | --- | --- | --- |")
	base := median(starts[0])
	for i, p := range peers {
		start := median(starts[i])
		fmt.Printf("| %s | %.1f ms | %.1f | %.1f ms |\n", p.name, ms(start), float64(start)/float64(base), ms(median(stops[i])))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

func startSandbox(session driver.Session) func(context.Context) (func() error, error) {
	serial := 0
	return func(ctx context.Context) (func() error, error) {
		serial++
		sandbox, err := session.Create(ctx, driver.Spec{ID: fmt.Sprint(serial), Env: []string{workerVariable + "=1"}})
		if err != nil {
			return nil, err
		}
		p, err := sandbox.StartWorker(ctx, driver.WorkerSpec{})
		if err != nil {
			return nil, err
		}
		if err := awaitReady(p.Handshake()); err != nil {
			return nil, err
		}
		return func() error {
			err := sandbox.Stop(ctx)
			for _, stream := range []io.Closer{p.Conn(), p.Direct(), p.Handshake(), p.Stdout(), p.Stderr(), p.Ledger()} {
				_ = stream.Close()
			}
			return err
		}, nil
	}
}

// startPlain starts a program with the descriptors that a worker has.
func startPlain(name string, arguments ...string) func(context.Context) (func() error, error) {
	return func(context.Context) (func() error, error) {
		handshake, handshakeW, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		conn, connW, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(name, arguments...)
		cmd.Env = []string{workerVariable + "=1", "PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR")}
		cmd.ExtraFiles = []*os.File{driver.ConnFD - 3: conn, driver.HandshakeFD - 3: handshakeW}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		_, _ = handshakeW.Close(), conn.Close()
		if err := awaitReady(handshake); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, fmt.Errorf("%w: %s", err, stderr.String())
		}
		return func() error {
			_ = connW.Close() // upon which the worker exits, and whatever waits for it
			_ = cmd.Wait()
			return handshake.Close()
		}, nil
	}
}

func awaitReady(handshake io.Reader) error {
	line, err := bufio.NewReader(handshake).ReadString('\n')
	if err == nil && line != "ready\n" {
		err = fmt.Errorf("it said %q", line)
	}
	return err
}
