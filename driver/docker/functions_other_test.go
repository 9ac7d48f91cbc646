//go:build !linux && !sbxworker

package docker_test

// tryCalls tries nothing: sandboxes are of Linux.
func tryCalls(func(what string, err error)) {}
