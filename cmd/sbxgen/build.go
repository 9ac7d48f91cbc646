package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sandboxfn/sbx/codegen"
	"github.com/sandboxfn/sbx/internal/artifact"
)

func worker(ctx context.Context, s *sbxgen, args []string) error {
	platforms := s.flags.String("platform", "", "build for these `platforms`, comma-separated: linux/amd64,linux/arm64 (default: as go build)")
	output := s.flags.String("o", "", "write the worker to a `file`, too; for one main package and platform")
	if err := s.parse(args); err != nil {
		return err
	}
	if err := s.checkOutput(*output); err != nil {
		return err
	}
	list := split(*platforms)
	if len(list) == 0 {
		list = []string{""}
	}
	return s.buildWorkers(ctx, list, *output)
}

func (s *sbxgen) buildWorkers(ctx context.Context, platforms []string, output string) error {
	workers, err := s.workers(ctx, s.flags.Args(), platforms)
	if err != nil {
		return err
	}
	if output == "" {
		return nil
	}
	if len(workers) != 1 {
		return &codegen.UsageError{Reason: fmt.Sprintf("-o names one file, and there are %d workers: choose one main package and one platform", len(workers))}
	}
	return artifact.CopyExecutable(s.inDir(output), workers[0])
}

// checkOutput refuses to replace a file that is no executable: it may be somebody's source.
func (s *sbxgen) checkOutput(output string) error {
	if output == "" {
		return nil
	}
	ok, err := artifact.MayReplace(s.inDir(output))
	if err != nil {
		return err
	}
	if !ok {
		return &codegen.UsageError{Reason: fmt.Sprintf("-o %s: there is a file of that name that is no executable; remove it, or choose another name", output)}
	}
	return nil
}

// workers returns the paths of the workers of the main packages that the patterns choose; it builds those that aren't in the cache.
func (s *sbxgen) workers(ctx context.Context, patterns, platforms []string) ([]string, error) {
	cache, err := artifact.DefaultCache()
	if err != nil {
		return nil, err
	}
	done := s.slow(loading)
	plans, diagnostics, err := codegen.Workers(ctx, codegen.Build{Dir: s.dir, Tags: s.tags, Patterns: patterns},
		func(string) []string { return platforms })
	done()
	if err = errors.Join(err, s.report(diagnostics)); err != nil {
		return nil, err
	}
	var paths []string
	for _, plan := range plans {
		path, err := s.build(ctx, cache, plan)
		if err != nil {
			return nil, err
		}
		if err := cache.SetLast(plan.Dir, plan.Manifest.Platform, artifact.Last{Key: plan.Manifest.Key(), Folders: plan.Folders}); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// build returns the path of one worker, and prints a line about it.
func (s *sbxgen) build(ctx context.Context, cache *artifact.Cache, plan *codegen.Plan) (_ string, err error) {
	key := plan.Manifest.Key()
	began, how := time.Now(), "unchanged"
	path, err := cache.Get(key)
	if err == nil {
		_, err = artifact.ReadFile(path) // a damaged one is built anew
	}
	if err != nil {
		done := s.slow("building the worker of %s for %s", plan.Manifest.Package, plan.Manifest.Platform)
		path, err = buildInto(ctx, cache, plan)
		done()
		if err != nil {
			return "", err
		}
		how = fmt.Sprintf("built in %.1f s", time.Since(began).Seconds())
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(s.stdout, "worker of %s for %s: %.1f MiB, %d functions, %s\n", plan.Manifest.Package, plan.Manifest.Platform,
		mib(info.Size()), len(plan.Manifest.Functions), how)
	if s.verbose {
		fmt.Fprintf(s.stdout, "\t%s\n", path)
		for _, line := range largest(path, 12) {
			fmt.Fprintf(s.stdout, "\t%s\n", line)
		}
	}
	return path, nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func buildInto(ctx context.Context, cache *artifact.Cache, plan *codegen.Plan) (_ string, err error) {
	temp, err := artifact.MakeTemp()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	built := filepath.Join(temp, "worker")
	if err := plan.Worker(ctx, built); err != nil {
		return "", err
	}
	m, err := artifact.ReadFile(built)
	if err != nil {
		return "", err
	}
	if m.Key() != plan.Manifest.Key() {
		return "", fmt.Errorf("the worker of %s carries another manifest than it was built with", plan.Manifest.Package)
	}
	file, err := os.Open(built)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	return cache.Put(plan.Manifest.Key(), file)
}

func build(ctx context.Context, s *sbxgen, args []string) error {
	platforms := s.flags.String("platform", "", "put workers for these `platforms` inside, comma-separated (default: Linux on the program's architecture)")
	output := s.flags.String("o", "", "write the program to this `file`, or into this folder (default: as go build)")
	if err := s.parse(args); err != nil {
		return err
	}
	if err := s.checkOutput(*output); err != nil {
		return err
	}
	done := s.slow(loading)
	program, diagnostics, err := codegen.FindProgram(ctx, codegen.Build{Dir: s.dir, Tags: s.tags, Patterns: s.flags.Args()})
	done()
	if err = errors.Join(err, s.report(diagnostics)); err != nil {
		return err
	}
	name := *output
	if info, err := os.Stat(s.inDir(name)); name == "" || os.IsPathSeparator(name[len(name)-1]) || err == nil && info.IsDir() {
		name = filepath.Join(name, program.Name)
		if err := s.checkOutput(name); err != nil {
			return err
		}
	}
	list := split(*platforms)
	if len(list) == 0 {
		list = []string{program.DefaultPlatform()}
	}
	workers, err := s.workers(ctx, []string{program.Package}, list)
	if err != nil {
		return err
	}
	path := s.inDir(name)
	done = s.slow("building %s", program.Package)
	err = program.Build(ctx, path, workers)
	done()
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "program %s: %.1f MiB, with its workers inside\n", path, mib(info.Size()))
	return nil
}
