//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "the local driver runs on Linux only")
	os.Exit(1)
}
