//go:build !sbxworker

package docker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:generate go tool sbxgen

// The functions that tests run in sandboxes.

// Double works for a time.
func Double(ctx context.Context, n int, work time.Duration) (int, error) {
	select {
	case <-time.After(work):
		return 2 * n, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Allocate uses that much memory.
func Allocate(_ context.Context, mib int) (int, error) {
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return len(memory), nil
}

// Fork starts processes until it can't, or has n, and returns how many it got.
func Fork(_ context.Context, n int) (int, error) {
	for i := range n {
		if err := exec.Command("/bin/sleep", "1000").Start(); err != nil {
			return i, nil //nolint:nilerr // that is the answer
		}
	}
	return n, nil
}

// Open opens files until it can't, or has n, and returns how many it got.
func Open(_ context.Context, n int) (int, error) {
	var files []*os.File
	defer func() {
		for _, file := range files {
			_ = file.Close()
		}
	}()
	for i := range n {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return i, nil //nolint:nilerr // that is the answer
		}
		files = append(files, file)
	}
	return n, nil
}

// Fill writes to a folder until it can't, and returns how many MiB it could write, and how many files it could make, of a thousand each.
func Fill(_ context.Context, folder string) (filled [2]int, err error) {
	for ; filled[1] < 1<<10; filled[1]++ {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", folder, filled[1]), nil, 0o600); err != nil {
			break
		}
	}
	for i := range filled[1] {
		if i > 0 {
			_ = os.Remove(fmt.Sprintf("%s/%d", folder, i))
		}
	}
	file, err := os.Create(folder + "/0")
	if err != nil {
		return filled, err
	}
	for piece := make([]byte, 1<<20); filled[0] < 1<<10; filled[0]++ {
		if _, err := file.Write(piece); err != nil {
			break
		}
	}
	return filled, errors.Join(file.Close(), os.Remove(folder+"/0"))
}

// Escape tries what a sandbox must not be able to do, and returns what it could.
func Escape(context.Context) (done []string, err error) {
	try := func(what string, err error) {
		if err == nil {
			done = append(done, what)
		}
	}
	for _, path := range []string{"/x", "/etc/x", "/usr/x", "/.sbx/x", "/.sbx/worker/x", "/.sbx/socket/x", "/proc/sys/kernel/x"} {
		try("write "+path, os.WriteFile(path, nil, 0o600))
	}
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	try("change the worker", os.WriteFile(own, nil, 0o700))
	try("remove the worker", os.Remove(own))
	for _, path := range []string{"/proc/1/mem", "/proc/1/environ", "/proc/1/fd/0", "/proc/1/fd/1", "/proc/1/maps", "/dev/mem", "/dev/kmsg"} {
		file, err := os.Open(path)
		if err == nil {
			_, err = file.Read(make([]byte, 1))
			_ = file.Close()
		}
		try("read "+path, err)
	}
	entries, err := os.ReadDir("/proc/1/fd")
	if err == nil && len(entries) > 0 {
		done = append(done, "list the agent's descriptors")
	}
	tryCalls(try)
	entries, _ = os.ReadDir("/.sbx/socket")
	if len(entries) > 0 {
		done = append(done, "see the socket")
	}
	_ = filepath.WalkDir("/run", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".sock") {
			done = append(done, "see "+path)
		}
		return nil
	})
	if interfaces, err := net.Interfaces(); err == nil && len(interfaces) != 1 {
		done = append(done, fmt.Sprintf("see %d network interfaces", len(interfaces)))
	}
	return done, nil
}
