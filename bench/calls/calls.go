package main

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/internal/measure"
)

// a variant is sbx on one of the drivers that this machine has.
type variant struct {
	name   string // as tables have it
	driver driver.Driver
}

var variants = []variant{{"sbx, process", process.New()}, {"sbx, local", local.New(nil)}}

func (v variant) open(ctx context.Context, opts ...sbx.OpenOption) (*sbx.Session, error) {
	return sbx.Open(ctx, append(opts, sbx.Driver(v.driver), sbx.Logger(slog.New(slog.DiscardHandler)))...)
}

// open opens a session with each driver. end closes all of them.
func open(ctx context.Context, opts ...sbx.OpenOption) (sessions map[string]*sbx.Session, end func() error, err error) {
	sessions = map[string]*sbx.Session{}
	end = func() error {
		for _, session := range sessions {
			if err := session.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, v := range variants {
		if sessions[v.name], err = v.open(ctx, opts...); err != nil {
			delete(sessions, v.name)
			_ = end()
			return nil, nil, err
		}
	}
	return sessions, end, nil
}

const callSize = 100

// lone measures one warm call at a time.
func lone(ctx context.Context, b *bench, w *strings.Builder) error {
	sessions, end, err := open(ctx)
	if err != nil {
		return err
	}
	contenders := []measure.Contender{b.peers.raw(callSize), b.peers.netRPC(callSize), b.peers.streamed(callSize), b.peers.unary(callSize, 1)}
	for _, p := range b.peers.pythons {
		contenders = append(contenders, p.contender("call"))
	}
	data := make([]byte, callSize)
	for _, v := range variants {
		echo := sessions[v.name].Function(Echo)
		contenders = append(contenders, measure.Contender{Name: v.name, Run: together(1, func(ctx context.Context) error {
			_, err := echo.Call(ctx, data)
			return err
		})})
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "One call at a time, with %d bytes there and back, into a warm sandbox or a process that is there.\n\n", callSize)
	measure.Compare(w, contenders, took, time.Microsecond, "raw echo", "gRPC stream", "gRPC unary")
	for _, v := range variants {
		b.AtMost("lone call, "+v.name+": to a gRPC stream", took[v.name]/took["gRPC stream"], 1.3)
		b.AtMost("lone call, "+v.name+": to gRPC unary", took[v.name]/took["gRPC unary"], 0.8)
	}
	return end()
}

// inFlight measures many calls at a time in one sandbox.
func inFlight(ctx context.Context, b *bench, w *strings.Builder) error {
	const atOnce = 64
	sessions, end, err := open(ctx, sbx.MaxSandboxes(1), sbx.Concurrency(atOnce))
	if err != nil {
		return err
	}
	contenders := []measure.Contender{b.peers.unary(callSize, atOnce)}
	data := make([]byte, callSize)
	for _, v := range variants {
		echo := sessions[v.name].Function(Echo)
		contenders = append(contenders, measure.Contender{Name: v.name, Run: together(atOnce, func(ctx context.Context) error {
			_, err := echo.Call(ctx, data)
			return err
		})})
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d calls of %d bytes in flight, in one sandbox (sbx.Concurrency(%d)) or over one connection; the time of one among them.\n\n", atOnce, callSize, atOnce)
	measure.Compare(w, contenders, took, time.Microsecond, "gRPC unary")
	for _, v := range variants {
		b.AtLeast(fmt.Sprintf("%d in flight, %s: rate to gRPC unary's", atOnce, v.name), took["gRPC unary"]/took[v.name], 5)
	}
	return end()
}

// repeat yields a value n times.
func repeat[T any](value T, n int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for range n {
			if !yield(value) {
				return
			}
		}
	}
}

// mapping measures maps of empty calls.
func mapping(ctx context.Context, b *bench, w *strings.Builder) error {
	sessions, end, err := open(ctx, sbx.MaxSandboxes(2))
	if err != nil {
		return err
	}
	contenders := []measure.Contender{b.peers.raw(0), b.peers.unary(0, 1)}
	for _, p := range b.peers.pythons {
		contenders = append(contenders, p.contender("map"))
	}
	for _, v := range variants {
		empty := sessions[v.name].Function(Empty)
		contenders = append(contenders, measure.Contender{Name: v.name, Run: func(ctx context.Context, n int) error {
			for _, err := range empty.Map(ctx, repeat(struct{}{}, n)) {
				if err != nil {
					return err
				}
			}
			return nil
		}})
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	w.WriteString("A map of empty calls over two sandboxes, or two processes in Python; the time of one input among them. The echo and gRPC make one call at a time.\n\n")
	measure.Compare(w, contenders, took, time.Microsecond, "raw echo", "gRPC unary")
	for _, v := range variants {
		b.AtLeast("map, "+v.name+": rate to the raw echo's", took["raw echo"]/took[v.name], 0.25)
		b.AtLeast("map, "+v.name+": rate to gRPC unary's", took["gRPC unary"]/took[v.name], 5)
		if dask, ok := took["dask.distributed"]; ok {
			b.AtLeast("map, "+v.name+": rate to dask's", dask/took[v.name], 100)
		}
	}
	return end()
}
