package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
)

// The suite's functions. Importing this package makes a test binary a worker that serves them.
func init() {
	registry.Function(name("echo"), echo)
	registry.Function(name("environment"), environment)
	registry.Function(name("printLines"), printLines)
	registry.Function(name("exit"), exit)
	registry.Function(name("crash"), crash)
	registry.Function(name("terminate"), terminate)
	registry.Function(name("panicElsewhere"), panicElsewhere)
	registry.Function(name("orphan"), orphan)
	registry.Function(name("block"), block)
	registry.Function(name("standardInput"), standardInput)
	registry.Function(name("fillFolder"), fillFolder)
	registry.Function(name("readFile"), readFile)
	registry.Function(name("writeFile"), writeFile)
	registry.Function(name("find"), find)
	worker.Divert()
}

func name(function string) string { return "drivertest." + function }

func echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }

func environment(context.Context, int) ([]string, error) {
	environment := os.Environ()
	slices.Sort(environment)
	return environment, nil
}

// printLines prints n numbered lines on each stream.
func printLines(_ context.Context, n int) (int, error) {
	for i := range n {
		fmt.Fprintf(os.Stdout, "out %d\n", i)
		fmt.Fprintf(os.Stderr, "err %d\n", i)
	}
	return n, nil
}

func exit(_ context.Context, code int) (int, error) {
	os.Exit(code)
	return 0, nil
}

func crash(_ context.Context, signal int) (int, error) {
	if err := signalSelf(signal); err != nil {
		return 0, err
	}
	select {}
}

// terminate gets what a service manager sends to all processes of a service.
func terminate(ctx context.Context, data []byte) ([]byte, error) {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	defer signal.Stop(terminated)
	if err := signalSelf(int(syscall.SIGTERM)); err != nil {
		return nil, err
	}
	select {
	case <-terminated: // user code may still ask for it
		return data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// panicElsewhere panics in a goroutine of its own, with standard error as it was, closed, or another file.
func panicElsewhere(_ context.Context, stderr string) (int, error) {
	if stderr != "kept" {
		if err := os.Stderr.Close(); err != nil {
			return 0, err
		}
	}
	if stderr == "another" {
		// The lowest free descriptor is the next file's.
		null, err := os.Open(os.DevNull)
		if err != nil {
			return 0, err
		}
		defer func() { _ = null.Close() }()
	}
	go func() { panic(stderr) }()
	select {}
}

// orphan leaves a process that has left its group and session, and that keeps standard output open.
func orphan(context.Context, int) (int, error) {
	cmd := exec.Command("/bin/sleep", "3600")
	cmd.Stdout = os.Stdout
	leaveGroup(cmd)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return cmd.Process.Pid, nil
}

// block returns when its context ends, or ignores that for ever.
func block(ctx context.Context, forever bool) (int, error) {
	if forever {
		select {}
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// fillFolder makes a file in the working folder, which must be empty, and returns the folder's path.
func fillFolder(_ context.Context, file string) (string, error) {
	entries, err := os.ReadDir(".")
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("the folder has a %s", entries[0].Name())
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return "", err
	}
	return os.Getwd()
}

func readFile(_ context.Context, path string) (string, error) {
	content, err := os.ReadFile(path)
	return string(content), err
}

// writeFile writes a file and returns why it could not.
func writeFile(_ context.Context, path string) (string, error) {
	if err := os.WriteFile(path, []byte("written"), 0o644); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

// find returns why there is nothing at path.
func find(_ context.Context, path string) (string, error) {
	if _, err := os.Lstat(path); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

func standardInput(context.Context, int) (int, error) {
	var b bytes.Buffer
	n, err := b.ReadFrom(os.Stdin)
	return int(n), err
}
