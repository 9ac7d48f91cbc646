package codegen

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sandboxfn/sbx/internal/artifact"
)

// A Program is a program that can be built with its workers inside.
type Program struct {
	// Package is the import path of the main package, and Name what go build would call the file.
	Package, Name string

	main   *mainPackage
	target *target
}

// FindProgram returns the program that build.Patterns choose; it must be one. Findings in the user's code come as diagnostics, and then there is no program.
func FindProgram(ctx context.Context, build Build) (*Program, []Diagnostic, error) {
	programs, diagnostics, err := findPrograms(ctx, build)
	if err != nil || len(diagnostics) > 0 {
		return nil, diagnostics, err
	}
	if len(programs) > 1 {
		names := make([]string, len(programs))
		for i, p := range programs {
			names[i] = p.unit.path
		}
		return nil, nil, &UsageError{fmt.Sprintf("there are several programs, and one is built at a time: name one of %s", strings.Join(names, ", "))}
	}
	target, err := findTarget(ctx, programs[0].module, "")
	if err != nil {
		return nil, nil, err
	}
	p := &Program{Package: programs[0].unit.path, main: programs[0], target: target}
	out, err := p.target.run(ctx, p.main.unit.dir, nil, "list", "-f", "{{.Target}}", ".")
	if err != nil {
		return nil, nil, err
	}
	p.Name = filepath.Base(strings.TrimSpace(string(out)))
	return p, nil, nil
}

// DefaultPlatform is the platform of workers for the program where nobody says which: Linux on the program's own architecture.
func (p *Program) DefaultPlatform() string { return "linux/" + p.target.arch }

// Build builds the program with the workers at these paths inside, and writes it to output, whole or not at all. The user's files stay
// as they are: what is added is an overlay.
func (p *Program) Build(ctx context.Context, output string, workers []string) error {
	var flags []string
	if tags := p.main.module.userTags; tags != "" {
		flags = append(flags, "-tags="+tags)
	}
	embed := func(temp string, add func(target, source string)) error { return p.embed(temp, workers, add) }
	keep := func(built string) error { return artifact.CopyExecutable(output, built) }
	if err := p.main.build(ctx, p.target, keep, p.main.overlay(), embed, nil, flags); err != nil {
		return fmt.Errorf("build %s: %w", p.Package, err)
	}
	return nil
}

// embed adds a file to the main package that embeds the workers.
func (p *Program) embed(temp string, workers []string, add func(target, source string)) error {
	unit := p.main.unit
	taken := nameTaken([]*types.Package{unit.pkg.Types})
	w := &writer{pkg: unit.pkg.Types, taken: taken, aliases: map[string]string{}}
	pkg := w.use(sbxPath+"/worker", "worker")
	name := "sbxWorker"
	for taken(name) {
		name += "_"
	}
	var statements []string
	var variables strings.Builder
	for i, worker := range workers {
		m, err := artifact.ReadFile(worker)
		if err != nil {
			return err
		}
		sum, err := artifact.HashFile(worker)
		if err != nil {
			return err
		}
		base := fmt.Sprintf("zz_sbx_worker_%d.gz", i)
		packed := filepath.Join(temp, base)
		if err := pack(packed, worker); err != nil {
			return err
		}
		add(filepath.Join(unit.dir, base), packed)
		fmt.Fprintf(&variables, "\n//go:embed %s\nvar %s%d string\n", base, name, i)
		statements = append(statements, fmt.Sprintf("%s.Embed(%s.Embedded{Platform: %q, Sum: %q, Gzip: %s%d})", pkg, pkg, m.Platform, sum, name, i))
	}
	w.blank = []string{"embed"}
	source := filepath.Join(temp, "zz_sbx_workers.go")
	if err := os.WriteFile(source, append(w.file(statements), variables.String()...), 0o600); err != nil {
		return err
	}
	add(filepath.Join(unit.dir, "zz_sbx_workers.go"), source)
	return nil
}

// pack compresses a file. The same contents make the same bytes.
func pack(target, source string) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	w := gzip.NewWriter(out)
	_, err = io.Copy(w, in)
	return errors.Join(err, w.Close(), out.Close())
}
