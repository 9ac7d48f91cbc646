package main // want package:"summary of 8 functions"

import (
	"context"
	"sync"

	"settings"

	"github.com/sandboxfn/sbx"
)

type Job struct {
	Name     string
	Callback func()
	mu       sync.Mutex
}

var epochs int

var cache = map[int]int{}

var initial = 3

func Train(ctx context.Context, n int) (int, error) {
	cache[n] = epochs                                                 // want `SBX013: Train reads epochs \(a.go:25\), which only main's side of the program writes \(a.go:\d+\)`
	return cache[n] + initial + settings.Limit + settings.Read(), nil // want `SBX013: Train reads settings.Limit`
}

func Run(ctx context.Context, job Job) error { return nil }

func Fine(ctx context.Context, n int) (string, error) { return "", nil }

type Model struct{}

func (Model) Predict(ctx context.Context, n int) (int, error) { return 0, nil }

var session, _ = sbx.Open(nil) // want `SBX012: the initialization of a package variable runs in the sandbox too`

func wrap[T any](session *sbx.Session, f func(context.Context, T) (T, error)) {
	session.Function(f) // want `SBX005: f is a parameter`
}

func main() {
	epochs = 10
	settings.Limit = 1
	settings.Load() // nobody reports here what only settings does
	session := &sbx.Session{}
	session.Function(Train)
	session.Function(Fine)
	session.Action(Run)                                                               // want `SBX003: Job.Callback: func\(\) can't be sent` `SBX003: Job.mu: sync.Mutex can't be sent`
	session.Function(func(ctx context.Context, n int) (int, error) { return n, nil }) // want `SBX002: a function literal has no name`
	session.Function(Model{}.Predict)                                                 // want `SBX004: Model{}.Predict is a method value`
	session.Function2[int, int, int](nil)                                             // want `SBX006: nil is wrapped`
	_ = session.Action[Job]                                                           // want `SBX009: session.Action is used as a value`
	type local struct{}
	session.Function(identity[local]) // want `SBX008: local is declared inside a function`
}

func identity[T any](ctx context.Context, v T) (T, error) { return v, nil }
