// Package sbx stands in for the real one in the scripts: the same methods, and nothing behind them.
package sbx

import (
	"context"

	_ "github.com/sandboxfn/sbx/registry" // as the real one does
)

type (
	Session                  struct{}
	FunctionOption           struct{}
	Function[In, Out any]    struct{}
	Action[In any]           struct{}
	Function0[Out any]       struct{}
	Function2[A, B, Out any] struct{}
)

func Open(ctx context.Context) (*Session, error) { return &Session{}, nil }

func (s *Session) Function[In, Out any](fn func(context.Context, In) (Out, error), opts ...FunctionOption) *Function[In, Out] {
	return nil
}

func (s *Session) Action[In any](fn func(context.Context, In) error, opts ...FunctionOption) *Action[In] {
	return nil
}

func (s *Session) Function0[Out any](fn func(context.Context) (Out, error), opts ...FunctionOption) *Function0[Out] {
	return nil
}

func (s *Session) Function2[A, B, Out any](fn func(context.Context, A, B) (Out, error), opts ...FunctionOption) *Function2[A, B, Out] {
	return nil
}
