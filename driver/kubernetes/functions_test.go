package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

//go:generate go tool sbxgen

// What tests call in sandboxes.

func echo(_ context.Context, text string) (string, error) { return text, nil }

// wait says that it has begun, and waits for a time, or for its context's end.
func wait(ctx context.Context, d time.Duration) (string, error) {
	fmt.Println("waiting")
	select {
	case <-time.After(d):
		return "waited", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// fill takes so many MiB of memory, and touches them.
func fill(_ context.Context, mib int) (int, error) {
	var held [][]byte
	for range mib {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		held = append(held, block)
	}
	return len(held), nil
}

// place is what a sandbox sees of where it is.
type place struct {
	User        int
	Environment []string
	Status      map[string]string // of /proc/self/status
	Unwritable  bool
}

func look(context.Context, string) (place, error) {
	p := place{User: os.Getuid(), Environment: os.Environ(), Status: map[string]string{}}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			p.Status[name] = strings.TrimSpace(value)
		}
	}
	p.Unwritable = os.WriteFile("/written", nil, 0o600) != nil
	_, err = os.Stat("/var/run/secrets/kubernetes.io")
	if err == nil {
		return p, fmt.Errorf("the sandbox has a token for the cluster")
	}
	return p, nil
}
