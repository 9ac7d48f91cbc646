package codegen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/packages"
)

// ignoreTag is the build tag that hides generated files.
const ignoreTag = "sbxgen"

// Visible returns the files that the generator looks at: without those that are hidden by the build constraint !sbxgen,
// which it doesn't load in the first place.
func Visible(files []*ast.File) []*ast.File {
	return slices.DeleteFunc(slices.Clone(files), func(file *ast.File) bool {
		for _, group := range file.Comments {
			for _, comment := range group.List {
				if expr, err := constraint.Parse(comment.Text); err == nil && comment.Pos() < file.Package && excludes(expr) {
					return true
				}
			}
		}
		return false
	})
}

// excludes reports whether a constraint is, or has as one of its conditions, !sbxgen.
func excludes(expr constraint.Expr) bool {
	switch expr := expr.(type) {
	case *constraint.AndExpr:
		return excludes(expr.X) || excludes(expr.Y)
	case *constraint.NotExpr:
		tag, ok := expr.X.(*constraint.TagExpr)
		return ok && tag.Tag == ignoreTag
	}
	return false
}

// A module is the main module that a run is about.
type module struct {
	dir  string // where the run takes place, inside the module
	root string
	tags string // of the user, and ignoreTag

	userTags string
	cache    string // where downloaded modules are
	work     string // the go.work file; empty if there is none
	env      []byte // the settings of the go command that decide what is loaded
}

func openModule(ctx context.Context, config Config) (*module, error) {
	dir, err := absolute(config.Dir)
	if err != nil {
		return nil, err
	}
	out, err := runGo(ctx, dir, "env", "-json", "GOMOD", "GOFLAGS", "GOWORK", "GOMODCACHE",
		"GOVERSION", "GOROOT", "GOOS", "GOARCH", "CGO_ENABLED", "GOEXPERIMENT")
	if err != nil {
		return nil, err
	}
	var env struct{ GOMOD, GOFLAGS, GOWORK, GOMODCACHE string }
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("read the output of go env: %w", err)
	}
	if !filepath.IsAbs(env.GOMOD) || filepath.Base(env.GOMOD) != "go.mod" {
		reason := fmt.Sprintf("no go.mod in %s or above: run sbxgen inside a module", dir)
		if env.GOWORK != "" && env.GOWORK != "off" {
			reason += fmt.Sprintf("; in a workspace (%s), that is in the folder of each of its modules, or with -C", env.GOWORK)
		}
		return nil, &UsageError{reason}
	}
	tags := config.Tags
	if tags == "" {
		tags = tagsOf(env.GOFLAGS)
	}
	m := &module{dir: dir, root: filepath.Dir(env.GOMOD), tags: ignoreTag, userTags: tags, cache: env.GOMODCACHE, env: out}
	if env.GOWORK != "off" {
		m.work = env.GOWORK
	}
	if tags != "" {
		m.tags = tags + "," + ignoreTag
	}
	return m, nil
}

// tagsOf returns the build tags in the value of GOFLAGS, comma-separated.
func tagsOf(goflags string) string {
	tags := ""
	for _, flag := range splitQuoted(goflags) {
		flag = "-" + strings.TrimLeft(flag, "-")
		if value, ok := strings.CutPrefix(flag, "-tags="); ok {
			tags = strings.Join(strings.Fields(strings.ReplaceAll(value, ",", " ")), ",")
		}
	}
	return tags
}

// splitQuoted splits at spaces that are not inside a quoted field, as the go command does with GOFLAGS.
func splitQuoted(s string) []string {
	var fields []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if quote := s[0]; quote == '\'' || quote == '"' {
			if end := strings.IndexByte(s[1:], quote); end >= 0 {
				fields = append(fields, s[1:1+end])
				s = s[end+2:]
				continue
			}
		}
		end := strings.IndexAny(s, " \t\r\n")
		if end < 0 {
			end = len(s)
		}
		fields = append(fields, s[:end])
		s = s[end:]
	}
	return fields
}

// load returns the module's packages and their tests, type-checked from source; what they import comes from export data.
// That the result's import graph goes on through those is used to find which main package reaches what.
func (m *module) load(ctx context.Context, old map[string]oldFile) ([]*packages.Package, error) {
	overlay := map[string][]byte{}
	for path, file := range old {
		if file.ours && !file.hidden {
			overlay[path] = []byte("//go:build ignore\n\npackage ignored\n")
		}
	}
	roots, err := packages.Load(&packages.Config{
		Context: ctx,
		Dir:     m.root,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedModule | packages.NeedForTest |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax,
		Tests: true,
		// What GOFLAGS says of coverage would make the packages import what was not loaded.
		BuildFlags: []string{"-tags=" + m.tags, "-cover=false"},
		Overlay:    overlay,
	}, "./...")
	if err == nil && len(roots) == 0 {
		// Package packages takes no notice of a go command that failed altogether; this one tells.
		_, err = runGo(ctx, m.root, "list", "-e", "-tags="+m.tags, "./...")
	}
	if err != nil {
		if _, said, ok := strings.Cut(err.Error(), ": stderr: "); ok && ctx.Err() == nil {
			return nil, fmt.Errorf("load the module in %s: %s", m.root, strings.TrimSpace(said))
		}
		return nil, fmt.Errorf("load the module in %s: %w", m.root, err)
	}
	slices.SortFunc(roots, func(a, b *packages.Package) int { return strings.Compare(a.ID, b.ID) })
	return roots, nil
}

// selected returns the paths of the packages that the patterns choose among those loaded.
func (m *module) selected(ctx context.Context, patterns []string, roots []*packages.Package) (map[string]bool, error) {
	all := map[string]bool{}
	for _, pkg := range roots {
		if pkg.ForTest == "" {
			all[pkg.PkgPath] = true
		}
	}
	return m.chosen(ctx, patterns, all)
}

// chosen returns those of the module's packages that the patterns choose.
func (m *module) chosen(ctx context.Context, patterns []string, all map[string]bool) (map[string]bool, error) {
	if len(patterns) == 0 {
		return all, nil
	}
	args := append([]string{"list", "-e", "-tags=" + m.tags, "-f", "{{.ImportPath}}", "--"}, patterns...)
	out, err := runGo(ctx, m.dir, args...)
	if err != nil {
		return nil, err
	}
	chosen := map[string]bool{}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if !all[path] {
			return nil, &UsageError{fmt.Sprintf("%s is not a package of the module in %s", path, m.root)}
		}
		chosen[path] = true
	}
	if len(chosen) == 0 {
		return nil, &UsageError{fmt.Sprintf("%s matches no packages", strings.Join(patterns, " "))}
	}
	return chosen, nil
}

func runGo(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%w: install Go, or add the folder of its command to PATH", err)
		}
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
			return nil, fmt.Errorf("go %s: %s", args[0], bytes.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}

// loadErrors returns what keeps the package from being loaded, as diagnostics. A name that is missing only because
// generated files are hidden doesn't.
func loadErrors(pkg *packages.Package, old map[string]oldFile) []Diagnostic {
	var diagnostics []Diagnostic
	for _, err := range pkg.Errors {
		if strings.HasPrefix(err.Msg, "# ") {
			continue // the compiler's view of what follows from the type checker
		}
		if name, ok := strings.CutPrefix(err.Msg, "undefined: "); ok && err.Kind == packages.TypeError && generatedName(name, pkg, old) {
			continue
		}
		d := Diagnostic{Code: Broken, Position: parsePosition(err.Pos), Message: importReason(err.Msg, pkg)}
		if d.Position.Filename == "" {
			d.Message = pkg.ID + ": " + err.Msg
		}
		diagnostics = append(diagnostics, d)
	}
	return diagnostics
}

// importReason gives the go command's reason where the type checker only knows that it couldn't import something.
func importReason(message string, pkg *packages.Package) string {
	rest, ok := strings.CutPrefix(message, "could not import ")
	if !ok {
		return message
	}
	importPath, _, _ := strings.Cut(rest, " ")
	if imported := pkg.Imports[importPath]; imported != nil && len(imported.Errors) > 0 {
		return fmt.Sprintf("could not import %s: %s", importPath, imported.Errors[0].Msg)
	}
	return message
}

// generatedName reports whether a name that wasn't found, "x" or "pkg.x", is declared in a generated file of the package,
// or of one that it imports.
func generatedName(name string, pkg *packages.Package, old map[string]oldFile) bool {
	dirs := map[string]bool{pkg.Dir: true}
	if _, after, ok := strings.Cut(name, "."); ok {
		name = after
		for _, imported := range pkg.Imports {
			dirs[imported.Dir] = true
		}
	}
	for path, file := range old {
		if !file.ours || !dirs[filepath.Dir(path)] {
			continue
		}
		// A broken file gives what could be read of it.
		syntax, _ := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if syntax != nil && slices.Contains(declaredNames(syntax), name) {
			return true
		}
	}
	return false
}

// parsePosition reads "file:line:col", "file:line", "file", "-" and "".
func parsePosition(s string) token.Position {
	var numbers []int
	for len(numbers) < 2 {
		i := strings.LastIndexByte(s, ':')
		if i < 0 {
			break
		}
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			break
		}
		numbers, s = append(numbers, n), s[:i]
	}
	if s == "" || s == "-" {
		return token.Position{}
	}
	position := token.Position{Filename: s}
	switch len(numbers) {
	case 1:
		position.Line = numbers[0]
	case 2:
		position.Line, position.Column = numbers[1], numbers[0]
	}
	return position
}
