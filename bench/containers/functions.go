package main

import "context"

//go:generate go tool sbxgen

// Empty is a call that has nothing to do.
func Empty(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }

// Echo returns its argument.
func Echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }
