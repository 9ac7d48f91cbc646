package codegen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/types"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/artifact"
)

// Build says which workers to build, or which program.
type Build struct {
	// Dir, Patterns and Tags are as in Config. The patterns choose main packages; empty means all of the module whose code
	// reaches a wrapped function.
	Dir      string
	Patterns []string
	Tags     string
}

// A Plan is a worker that can be built: what Workers returns. It belongs to one main package and platform.
type Plan struct {
	// Manifest describes the worker. Its key tells whether there is one already.
	Manifest *artifact.Manifest
	// Dir is the main package's folder, an absolute path.
	Dir string
	// Folders are where the modules of the manifest's sources are, by their paths; the main module's by "".
	Folders map[string]string

	main      *mainPackage
	target    *target
	mainFiles []string // of the main package, on the target
}

// Workers returns the workers that build asks for, without building any: for each main package, whose folder platforms gets, those
// of these platforms, "linux/amd64" each; "" is the one that the environment chooses, as for go build. Nothing on disk is
// changed: generated files that are missing or stale are taken from memory. Findings in the user's code come as diagnostics,
// and then there are no plans.
func Workers(ctx context.Context, build Build, platforms func(dir string) []string) ([]*Plan, []Diagnostic, error) {
	programs, diagnostics, err := findPrograms(ctx, build)
	if err != nil || len(diagnostics) > 0 {
		return nil, diagnostics, err
	}
	var plans []*Plan
	for _, p := range programs {
		for _, platform := range platforms(p.unit.dir) {
			t, err := findTarget(ctx, p.module, platform)
			if err != nil {
				return nil, nil, err
			}
			plan, err := p.plan(ctx, t)
			if err != nil {
				return nil, nil, err
			}
			plans = append(plans, plan)
		}
	}
	return plans, nil, nil
}

// A mainPackage is a main package that reaches wrapped functions.
type mainPackage struct {
	*analysis
	unit *unit
}

// findPrograms returns the main packages that the patterns choose; there is at least one if there is no error.
func findPrograms(ctx context.Context, build Build) ([]*mainPackage, []Diagnostic, error) {
	a, err := inspect(ctx, Config{Dir: build.Dir, Tags: build.Tags})
	if err != nil {
		return nil, nil, err
	}
	chosen, err := a.module.chosen(ctx, build.Patterns, a.selected)
	if err != nil {
		return nil, nil, err
	}
	var roots []*mainPackage
	var others []string
	for _, u := range a.units {
		switch {
		case u.kind != ordinary || !chosen[u.path]:
		case u.pkg.Name == "main" && a.graph.reaches(u.pkg):
			roots = append(roots, &mainPackage{analysis: a, unit: u})
		default:
			others = append(others, u.path)
		}
	}
	if len(roots) == 0 {
		if diagnostics := a.diagnostics; len(diagnostics) > 0 {
			return nil, diagnostics, nil
		}
		reason := "no main package of the module in " + a.module.root + " reaches a wrapped function, so there is no worker to build"
		if len(build.Patterns) > 0 {
			reason = fmt.Sprintf("%s: not a main package that reaches a wrapped function, so there is no worker to build", strings.Join(others, ", "))
		}
		return nil, nil, &UsageError{reason}
	}
	var diagnostics []Diagnostic
	for _, p := range roots {
		diagnostics = append(diagnostics, p.diagnosticsWithin()...)
	}
	return roots, tidy(diagnostics), nil
}

// within returns the program's packages that are among those looked at.
func (p *mainPackage) within() map[*unit]bool {
	byPath := map[string]*unit{}
	for _, u := range p.units {
		if u.kind == ordinary {
			byPath[u.pkg.PkgPath] = u
		}
	}
	reached := map[*unit]bool{}
	var visit func(path string)
	visit = func(path string) {
		u := byPath[path]
		if u == nil || reached[u] {
			return
		}
		reached[u] = true
		for _, imported := range u.pkg.Imports {
			visit(imported.PkgPath)
		}
	}
	visit(p.unit.pkg.PkgPath)
	return reached
}

// diagnosticsWithin are those that concern the program's own packages, and not only their tests.
func (p *mainPackage) diagnosticsWithin() []Diagnostic {
	dirs := map[string]bool{}
	for u := range p.within() {
		dirs[u.dir] = true
	}
	var diagnostics []Diagnostic
	for _, d := range p.diagnostics {
		name := d.Position.Filename
		if name == "" || dirs[filepath.Dir(name)] && !isTestFile(name) {
			diagnostics = append(diagnostics, d)
		}
	}
	return diagnostics
}

// functions are the wrapped functions that the program registers, and the types that they reach.
func (p *mainPackage) functions() ([]artifact.Function, map[string]artifact.Type) {
	d := &describer{types: map[string]artifact.Type{}}
	byName := map[string]artifact.Function{}
	for u := range p.within() {
		for _, wrap := range u.wraps {
			byName[wrap.instanceName()] = d.function(wrap)
		}
	}
	var functions []artifact.Function
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		functions = append(functions, byName[name])
	}
	return functions, d.types
}

// A describer writes types as manifests have them.
type describer struct{ types map[string]artifact.Type }

// seenFrom writes types as code in a package does.
func seenFrom(here *types.Package) types.Qualifier {
	return func(pkg *types.Package) string {
		if pkg == here {
			return ""
		}
		return pkg.Name()
	}
}

func (d *describer) function(wrap Wrap) artifact.Function {
	reached := map[string]bool{}
	for _, t := range wrap.Types {
		d.add(t, reached)
	}
	return artifact.Function{
		Name:      wrap.instanceName(),
		Signature: types.TypeString(wrap.signature(), seenFrom(wrap.Func.Pkg())),
		Types:     slices.Sorted(maps.Keys(reached)),
	}
}

// signature is the wrapped function's type, with its type arguments.
func (w Wrap) signature() types.Type {
	if len(w.TypeArgs) > 0 {
		if instance, err := types.Instantiate(nil, w.Func.Signature(), w.TypeArgs, false); err == nil {
			return instance
		}
	}
	return w.Func.Signature()
}

// add describes t and all that it is made of, as far as it is sent.
func (d *describer) add(t types.Type, reached map[string]bool) {
	t = types.Unalias(t)
	named, ok := t.(*types.Named)
	if !ok {
		d.addParts(t, reached)
		return
	}
	if named.Obj().Pkg() == nil {
		return // error
	}
	name := types.TypeString(withoutAliases(named), (*types.Package).Path)
	if reached[name] {
		return
	}
	reached[name] = true
	qualifier := seenFrom(named.Obj().Pkg())
	described := artifact.Type{Text: types.TypeString(named, qualifier)}
	structure, isStruct := named.Underlying().(*types.Struct)
	switch {
	case wholePair(named):
		described.Underlying = "what its own methods make of it"
	case isStruct:
		for i := range structure.NumFields() {
			if leftOut(structure, i) {
				continue
			}
			field := structure.Field(i)
			described.Fields = append(described.Fields, artifact.Field{Name: field.Name(), Type: types.TypeString(field.Type(), qualifier)})
		}
		d.addParts(structure, reached)
	default:
		described.Underlying = types.TypeString(named.Underlying(), qualifier)
		d.addParts(named.Underlying(), reached)
	}
	d.types[name] = described
}

func (d *describer) addParts(t types.Type, reached map[string]bool) {
	switch t := t.(type) {
	case *types.Pointer:
		d.add(t.Elem(), reached)
	case *types.Slice:
		d.add(t.Elem(), reached)
	case *types.Array:
		d.add(t.Elem(), reached)
	case *types.Map:
		d.add(t.Key(), reached)
		d.add(t.Elem(), reached)
	case *types.Struct:
		for i := range t.NumFields() {
			if !leftOut(t, i) {
				d.add(t.Field(i).Type(), reached)
			}
		}
	}
}

// withoutWorkers are the systems, in the go command's words, that start no processes with open descriptors or mappings.
var withoutWorkers = []string{"js", "wasip1", "plan9"}

// plainBuild are the go command's flags by which a worker is built without what GOFLAGS may say of instrumented builds: a static
// program can't have the race detector, and nobody would collect its coverage.
var plainBuild = []string{"-race=false", "-msan=false", "-asan=false", "-cover=false"}

// A target is a platform with the settings of the go command for it.
type target struct {
	os, arch string
	settings map[string]string // of the go command
}

func (t *target) String() string { return t.os + "/" + t.arch }

// interruptTime is how long a go command that was interrupted may take to end.
const interruptTime = 10 * time.Second

// settingsThatMatter are those of the go command that decide what a build gives, beside the platform.
var settingsThatMatter = []string{"GO386", "GOAMD64", "GOARM", "GOARM64", "GOEXPERIMENT", "GOFIPS140", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64", "GOVERSION"}

func findTarget(ctx context.Context, m *module, platform string) (*target, error) {
	t := &target{}
	if platform != "" {
		var ok bool
		if t.os, t.arch, ok = strings.Cut(platform, "/"); !ok || t.os == "" || t.arch == "" {
			return nil, &UsageError{fmt.Sprintf("%q is not a platform: give one as GOOS/GOARCH, for instance linux/amd64", platform)}
		}
		if slices.Contains(withoutWorkers, t.os) {
			return nil, &UsageError{fmt.Sprintf("there are no workers for %s: a worker is a process of an operating system, such as linux or windows", platform)}
		}
	}
	out, err := t.run(ctx, m.dir, nil, append([]string{"env", "-json", "GOOS", "GOARCH"}, settingsThatMatter...)...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &t.settings); err != nil {
		return nil, fmt.Errorf("read the output of go env: %w", err)
	}
	t.os, t.arch = t.settings["GOOS"], t.settings["GOARCH"]
	return t, nil
}

// local reports whether the platform is the one that sbxgen runs on.
func (t *target) local() bool { return t.os == runtime.GOOS && t.arch == runtime.GOARCH }

// run runs the go command for the target; env is added to what this process has.
func (t *target) run(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	if t.os != "" {
		cmd.Env = append(cmd.Env, "GOOS="+t.os, "GOARCH="+t.arch)
	}
	cmd.Env = append(cmd.Env, env...)
	// A build that is interrupted is left the time to remove what it made.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptTime
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if text := bytes.TrimSpace(stderr.Bytes()); len(text) > 0 {
			return nil, fmt.Errorf("go %s for %s: %s", args[0], t, text)
		}
		return nil, fmt.Errorf("go %s for %s: %w", args[0], t, err)
	}
	return stdout.Bytes(), nil
}

// Worker builds the worker, and writes it to path, whole or not at all.
func (p *Plan) Worker(ctx context.Context, path string) error {
	overlay := p.main.overlay()
	if err := p.divertBuilt(overlay); err != nil {
		return err
	}
	keep := func(built string) error {
		if err := artifact.Seal(built); err != nil {
			return err
		}
		return artifact.CopyExecutable(path, built)
	}
	if err := p.main.build(ctx, p.target, keep, overlay, nil, []string{cgoSetting(p.Manifest)}, p.target.buildFlags(p.Manifest)); err != nil {
		return fmt.Errorf("build the worker of %s: %w", p.Manifest.Package, err)
	}
	return nil
}

// build runs go build for the package with an overlay, and gives keep the file that comes of it. More may add files to the overlay; they
// and that file are in a folder that goes when the build has ended. env and flags are the go command's.
func (p *mainPackage) build(ctx context.Context, t *target, keep func(built string) error, o overlay,
	more func(temp string, add func(target, source string)) error, env, flags []string,
) (err error) {
	temp, err := artifact.MakeTemp()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	file, err := o.write(temp, more)
	if err != nil {
		return err
	}
	out := filepath.Join(temp, "out")
	args := append([]string{"build", "-o", out, "-overlay", file}, flags...)
	if _, err := t.run(ctx, p.unit.dir, env, append(args, ".")...); err != nil {
		return err
	}
	return keep(out)
}

// buildFlags are the flags of go build that make a worker small, and the same wherever it is built.
func (t *target) buildFlags(m *artifact.Manifest) []string {
	link := "-s -w -buildid="
	if t.arch == "amd64" {
		link += " -funcalign=16" // 32 gains nothing that a call could show, and costs a hundredth of the size
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=" + link}
	for _, setting := range m.Settings {
		if strings.HasPrefix(setting, "-") {
			flags = append(flags, setting)
		}
	}
	return flags
}

func cgoSetting(m *artifact.Manifest) string {
	for _, setting := range m.Settings {
		if strings.HasPrefix(setting, "CGO_ENABLED=") {
			return setting
		}
	}
	return "CGO_ENABLED=0"
}
