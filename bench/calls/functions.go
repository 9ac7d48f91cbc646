package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

//go:generate go tool sbxgen

// Empty is a call that has nothing to do.
func Empty(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }

// Echo returns its argument.
func Echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }

// Sleep is a call that waits.
func Sleep(ctx context.Context, d time.Duration) (struct{}, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return struct{}{}, nil
}

// Spin is a call that computes, for so many rounds.
func Spin(_ context.Context, rounds int) (uint64, error) { return spin(rounds), nil }

func spin(rounds int) uint64 {
	x := uint64(88172645463325252)
	for range rounds {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// Peak returns the most memory that the process which it runs in had so far, in bytes.
func Peak(context.Context, struct{}) (int, error) { return peak() }

func peak() (int, error) {
	content, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}

// Resident returns the memory of the process that it runs in, in bytes.
func Resident(context.Context, struct{}) (int, error) {
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0, errors.New("/proc/self/statm has no second number")
	}
	pages, err := strconv.Atoi(fields[1])
	return pages * os.Getpagesize(), err
}
