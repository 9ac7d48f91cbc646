package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/sandboxfn/sbx/codegen"
	"github.com/sandboxfn/sbx/internal/artifact"
)

func generate(ctx context.Context, s *sbxgen, args []string) error {
	checking := s.flags.Bool("check", false, "write nothing; list the files that would change and exit with status 1 if there are any")
	printVersion := s.flags.Bool("version", false, "print the version")
	platforms := s.flags.String("platform", "", "build the workers for these `platforms`, too, comma-separated: linux/amd64,linux/arm64")
	if err := s.parse(args); err != nil {
		return err
	}
	switch {
	case *printVersion:
		return version(ctx, s, nil)
	case *checking:
		return s.check(ctx)
	}
	result, err := s.run(ctx, false)
	if err != nil {
		return err
	}
	for _, path := range result.Excluded {
		fmt.Fprintf(s.stderr, "%s: uses sbx, and is left out by its build constraints, so nothing in it is looked at: see -tags\n", s.relative(path))
	}
	for _, file := range result.Files {
		if file.Change != codegen.Unchanged && s.verbose {
			fmt.Fprintf(s.stdout, "%s %s\n", file.Change, s.relative(file.Path))
		}
	}
	if *platforms == "" {
		return nil
	}
	return s.buildWorkers(ctx, split(*platforms), "")
}

// loading is what takes long where little of a module's imports has been compiled before.
const loading = "loading the module; the go command compiles what it imports, which is fast the next time"

// run generates, or finds out what that would change.
func (s *sbxgen) run(ctx context.Context, check bool) (*codegen.Result, error) {
	config := codegen.Config{
		Dir: s.dir, Patterns: s.flags.Args(), Tags: s.tags, Check: check,
		GoGenerate: os.Getenv("GOFILE") != "",
	}
	if cache, err := artifact.DefaultCache(); err == nil {
		config.Stamps = filepath.Join(cache.Dir(), "generated")
	}
	done := s.slow(loading)
	result, err := codegen.Run(ctx, config)
	done()
	if err != nil {
		return nil, err
	}
	return result, s.report(result.Diagnostics)
}

func check(ctx context.Context, s *sbxgen, args []string) error {
	if err := s.parse(args); err != nil {
		return err
	}
	return s.check(ctx)
}

func (s *sbxgen) check(ctx context.Context) error {
	result, err := s.run(ctx, true)
	if err != nil {
		return err
	}
	stale := false
	for _, file := range result.Files {
		if file.Change != codegen.Unchanged {
			stale = true
			fmt.Fprintf(s.stdout, "%s would be %s\n", s.relative(file.Path), file.Change)
		}
	}
	if stale {
		return errors.New("generated files are not up to date: run go tool sbxgen")
	}
	return nil
}

func show(ctx context.Context, s *sbxgen, args []string) error {
	if err := s.parse(args); err != nil {
		return err
	}
	result, err := s.run(ctx, true)
	if err != nil {
		return err
	}
	stale := false
	for _, file := range result.Files {
		if file.Change == codegen.Unchanged {
			continue
		}
		stale = true
		name := filepath.ToSlash(s.relative(file.Path))
		old, err := os.ReadFile(file.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := s.stdout.Write(diff.Diff(name, old, name+" (generated now)", file.Source)); err != nil {
			return err
		}
	}
	workers, err := s.diffWorkers(ctx)
	if err != nil {
		return err
	}
	if stale || workers {
		return errReported
	}
	return nil
}

// diffWorkers compares the workers that were built last, on any platform, with those that would be built now.
func (s *sbxgen) diffWorkers(ctx context.Context) (stale bool, err error) {
	cache, err := artifact.DefaultCache()
	if err != nil {
		return false, err
	}
	plans, diagnostics, err := codegen.Workers(ctx, codegen.Build{Dir: s.dir, Tags: s.tags, Patterns: s.flags.Args()}, cache.Platforms)
	if _, ok := errors.AsType[*codegen.UsageError](err); ok {
		return false, nil // a module without programs has no workers
	}
	if err = errors.Join(err, s.report(diagnostics)); err != nil {
		return false, err
	}
	for _, plan := range plans {
		_, path, err := cache.Last(plan.Dir, plan.Manifest.Platform)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		old, err := artifact.ReadFile(path)
		if err != nil {
			return false, fmt.Errorf("%w; go tool sbxgen worker builds it anew", err)
		}
		lines := artifact.Diff(old, plan.Manifest)
		stale = stale || len(lines) > 0
		for _, line := range lines {
			fmt.Fprintf(s.stdout, "worker of %s for %s: %s\n", plan.Manifest.Package, plan.Manifest.Platform, line)
		}
	}
	return stale, nil
}

func list(ctx context.Context, s *sbxgen, args []string) error {
	if err := s.parse(args); err != nil {
		return err
	}
	done := s.slow(loading)
	functions, diagnostics, err := codegen.List(ctx, codegen.Config{Dir: s.dir, Patterns: s.flags.Args(), Tags: s.tags})
	done()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, f := range functions {
		wraps := make([]string, len(f.Wraps))
		for i, position := range f.Wraps {
			wraps[i] = s.position(position)
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\n", f.Name, f.Signature, s.position(f.Declared), strings.Join(wraps, ", "))
	}
	if _, err := b.WriteTo(s.stdout); err != nil {
		return err
	}
	return s.report(diagnostics)
}

// position is "file:line".
func (s *sbxgen) position(p token.Position) string {
	return fmt.Sprintf("%s:%d", s.relative(p.Filename), p.Line)
}

// split splits at commas.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
