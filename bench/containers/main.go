// Containers measures what sandboxes of a Docker Engine cost, beside local ones and bare containers. The engine is the one that DOCKER_HOST, or
// the default, says; where none answers, all is left out. It is a program apart from bench/calls because whoever uses no engine does not have its
// client in the worker, and the worker's start is what a fresh sandbox costs most.
//
//	CGO_ENABLED=0 SBX_BENCH_DOCKER_IMAGE=busybox:stable go run ./bench/containers
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/sandboxfn/sbx/internal/measure"
)

func main() {
	rounds := flag.Int("rounds", 9, "how often each contender runs")
	write := flag.Bool("write", false, "write the tables into "+measure.PerformanceFile+", and the ratios into "+measure.RatiosFile)
	check := flag.Bool("check", false, "compare the ratios with those in "+measure.RatiosFile)
	flag.Parse()
	r := &measure.Run{Program: "bench/containers", Rounds: *rounds}
	if err := run(context.Background(), r, *write, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if !errors.Is(err, measure.ErrLeftOut) {
			os.Exit(1)
		}
	}
}

func run(ctx context.Context, r *measure.Run, write, check bool) error {
	b, err := open(ctx, r)
	if err != nil {
		return err
	}
	err = r.All(ctx, regexp.MustCompile(""), []measure.Part{{Name: "calls", Run: b.calls}, {Name: "maps", Run: b.maps}, {Name: "starts", Run: b.starts}})
	err = errors.Join(err, b.close())
	if err == nil && write {
		err = r.WriteDown(strings.Join(append([]string{"go run ./bench/containers"}, os.Args[1:]...), " "))
	}
	if err == nil && check {
		err = r.Check()
	}
	return err
}
