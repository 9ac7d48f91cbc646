package local

import (
	"fmt"
	"runtime"
)

//go:generate go run ./internal/filter/write

// filterOf returns the packed seccomp program that internal/filter assembled for this architecture; shares says that the sandbox can change
// folders of the host.
func filterOf(shares bool) ([]byte, error) {
	program := callFilter
	if shares {
		program = sharingCallFilter
	}
	if program == "" {
		return nil, fmt.Errorf("no system call filter for architecture %s", runtime.GOARCH)
	}
	return []byte(program), nil
}
