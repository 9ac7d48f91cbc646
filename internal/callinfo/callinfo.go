// Package callinfo carries what a running function may know of its call, from package worker, which sets it, to
// package sbx, which hands it out.
package callinfo

import (
	"context"
	"time"
)

// Info describes the call in which a function runs.
type Info struct {
	// Function is the function's registered name, such as "example.com/train.Train".
	Function string
	// Call is the call's id, the same in all attempts.
	Call string
	// Attempt counts the runs of the call from 1.
	Attempt int
	// Session and Sandbox are ids.
	Session, Sandbox string
	// Deadline is when the function's context ends by itself; zero if it doesn't.
	Deadline time.Time
}

type key struct{}

// With returns a context that carries info.
func With(ctx context.Context, info Info) context.Context {
	return context.WithValue(ctx, key{}, info)
}

// From returns what With put into ctx.
func From(ctx context.Context) (Info, bool) {
	info, ok := ctx.Value(key{}).(Info)
	return info, ok
}
