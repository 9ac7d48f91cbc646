package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/sandboxfn/sbx"
)

// profileTime is how long each profile is recorded.
const profileTime = 5 * time.Second

// profile writes profiles of both sides of warm calls to a folder: of one call at a time, of 64 in flight, and of big
// values.
func profile(ctx context.Context, folder string) error {
	runtime.MemProfileRate = 4 << 10 // as many samples as there are to have
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, load := range []struct {
		name         string
		atOnce, size int
	}{{"lone", 1, callSize}, {"in-flight", 64, callSize}, {"values", 1, bigValue}} {
		session, err := variants[0].open(ctx, sbx.MaxSandboxes(1), sbx.Concurrency(64))
		if err != nil {
			return err
		}
		echo := session.Function(Echo)
		call := echo.Spawn(ctx, nil)
		if _, err := call.Result(ctx); err != nil {
			return err
		}
		create := func(what string) (*os.File, error) {
			return os.Create(filepath.Join(folder, fmt.Sprintf("%s.%s.pprof", load.name, what)))
		}
		cpu, err := create("session.cpu")
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(cpu); err != nil {
			return err
		}
		remote := make(chan error, 1)
		go func() {
			data, err := session.Profile(ctx, call.Sandbox(), "cpu", profileTime)
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, load.name+".worker.cpu.pprof"), data, 0o600)
			}
			remote <- err
		}()
		data, calls := make([]byte, load.size), 0
		run := together(load.atOnce, func(ctx context.Context) error {
			_, err := echo.Call(ctx, data)
			return err
		})
		for began := time.Now(); time.Since(began) < profileTime+time.Second/2; calls += 2 * load.atOnce {
			if err := run(ctx, 2*load.atOnce); err != nil {
				return err
			}
		}
		pprof.StopCPUProfile()
		if err := <-remote; err != nil {
			return err
		}
		allocs, err := create("session.allocs")
		if err != nil {
			return err
		}
		if err := pprof.Lookup("allocs").WriteTo(allocs, 0); err != nil {
			return err
		}
		data, err = session.Profile(ctx, call.Sandbox(), "allocs", 0)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, load.name+".worker.allocs.pprof"), data, 0o600); err != nil {
			return err
		}
		fmt.Printf("%s: %d calls\n", load.name, calls)
		for _, file := range []*os.File{cpu, allocs} {
			if err := file.Close(); err != nil {
				return err
			}
		}
		if err := session.Close(); err != nil {
			return err
		}
	}
	return nil
}
