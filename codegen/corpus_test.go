package codegen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

// corpus is code that knows nothing of sbx: the standard library, and modules that this one depends on.
var corpus = []string{
	"std", "google.golang.org/grpc/...", "golang.org/x/tools/...", "google.golang.org/protobuf/...",
	"github.com/vmihailenco/msgpack/v5/...", "github.com/hashicorp/go-plugin/...", "github.com/stretchr/testify/...", "golang.org/x/net/...",
}

func loadPackages(t *testing.T, overlay map[string][]byte, flags []string, patterns ...string) []*packages.Package {
	t.Helper()
	roots, err := packages.Load(&packages.Config{
		Context: t.Context(),
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedModule |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax,
		Overlay:    overlay,
		BuildFlags: flags,
	}, patterns...)
	require.NoError(t, err)
	roots = slices.DeleteFunc(roots, func(pkg *packages.Package) bool { // what they import may not be there
		broken := false
		packages.Visit([]*packages.Package{pkg}, nil, func(pkg *packages.Package) { broken = broken || len(pkg.Errors) > 0 })
		return broken
	})
	require.NotEmpty(t, roots)
	return roots
}

// Nothing is said of code that wraps nothing, and what registry says of each of its types when a program runs is known
// before: of every exported type, and of every exported function that could be wrapped.
func TestCorpus(t *testing.T) {
	if testing.Short() {
		t.Skip("type-checks the standard library and builds a program of all of it")
	}
	t.Setenv("GOWORK", "off") // the corpus is what this module's go.mod says
	roots := loadPackages(t, nil, nil, corpus...)
	require.Greater(t, len(roots), 500)

	var summaries []*Summary
	for _, pkg := range roots {
		wraps, found := Find(pkg.Fset, pkg.Types, pkg.TypesInfo, pkg.Syntax)
		assert.Empty(t, wraps)
		assert.Empty(t, found)
		summaries = append(summaries, Summarize(pkg.Fset, pkg.Types, pkg.TypesInfo, pkg.Syntax, wraps))
	}
	for _, pkg := range roots {
		if pkg.Name == "main" {
			assert.Empty(t, CheckProgram(pkg.PkgPath, summaries))
		}
	}

	p := newProbe(roots)
	require.Greater(t, len(p.types), 2000)
	require.Greater(t, len(p.functions), 5)
	dynamic := p.run(t)
	require.Len(t, dynamic, len(p.types)+len(p.functions))
	sent := 0
	for _, probed := range p.types {
		path := ""
		if problems := CheckType(probed.typ, nil); len(problems) > 0 {
			path = "refused" + strings.TrimPrefix(problems[0].Path, rootName(probed.typ, nil))
		} else {
			sent++
		}
		assert.Equal(t, path, dynamic[probed.name], "%s: the part that can't be sent", probed.name)
	}
	wraps, refused := p.find(t)
	for _, probed := range p.functions {
		assert.Equal(t, dynamic[probed.name] == "", wraps[probed.name], probed.name)
		assert.Equal(t, dynamic[probed.name] != "", refused[probed.expr], probed.name)
	}
	t.Logf("%d packages; %d of %d types can be sent, %d of %d functions wrapped", len(roots), sent, len(p.types), len(wraps), len(p.functions))
	require.Greater(t, sent, 500)
	require.Greater(t, len(p.types)-sent, 500)
}

// A probe is a program that asks package registry about types and functions, and wraps the functions.
type probe struct {
	flags     []string // of the go command
	imports   []string
	types     []probed
	functions []probed
}

type probed struct {
	expr   string // "p7.Time"
	name   string // "time.Time"
	method string // the one that wraps a function
	typ    types.Type
}

func newProbe(roots []*packages.Package) *probe {
	p := &probe{}
	for _, pkg := range roots {
		if pkg.Name == "main" || strings.HasPrefix(pkg.PkgPath, "vendor/") || pkg.PkgPath == "unsafe" ||
			slices.Contains(strings.Split(pkg.PkgPath, "/"), "internal") {
			continue
		}
		alias := "p" + strconv.Itoa(len(p.imports))
		used := false
		for _, name := range pkg.Types.Scope().Names() {
			object := pkg.Types.Scope().Lookup(name)
			if !object.Exported() {
				continue
			}
			switch object := object.(type) {
			case *types.TypeName:
				t, args := instance(object)
				if t != nil {
					p.types = append(p.types, probed{expr: alias + "." + name + args, name: pkg.PkgPath + "." + name, typ: t})
					used = true
				}
			case *types.Func:
				if method := wrappedBy(object.Signature()); method != "" {
					p.functions = append(p.functions, probed{expr: alias + "." + name, name: pkg.PkgPath + "." + name, method: method})
					used = true
				}
			}
		}
		if used {
			p.imports = append(p.imports, fmt.Sprintf("%s %q", alias, pkg.PkgPath))
		}
	}
	return p
}

// instance returns a type, a generic one instantiated with int if it can be.
func instance(name *types.TypeName) (t types.Type, args string) {
	t = name.Type()
	if c, ok := t.Underlying().(*types.Interface); ok && !c.IsMethodSet() {
		return nil, ""
	}
	generic, ok := t.(interface{ TypeParams() *types.TypeParamList })
	if !ok || generic.TypeParams().Len() == 0 {
		return t, ""
	}
	ints := slices.Repeat([]types.Type{types.Typ[types.Int]}, generic.TypeParams().Len())
	t, err := types.Instantiate(nil, t, ints, true)
	if err != nil {
		return nil, ""
	}
	return t, "[" + strings.TrimSuffix(strings.Repeat("int, ", len(ints)), ", ") + "]"
}

// wrappedBy returns the method that wraps functions of a signature; it is empty if none does.
func wrappedBy(s *types.Signature) string {
	params, results := s.Params(), s.Results()
	if s.TypeParams().Len() > 0 || s.Variadic() || params.Len() == 0 || params.At(0).Type().String() != "context.Context" ||
		results.Len() == 0 || !types.Identical(results.At(results.Len()-1).Type(), errorType) {
		return ""
	}
	return map[[2]int]string{{2, 2}: "Function", {1, 2}: "Function0", {3, 2}: "Function2", {2, 1}: "Action"}[[2]int{params.Len(), results.Len()}]
}

func (p *probe) source() []byte {
	var b bytes.Buffer
	b.WriteString("package main\n\nimport (\n")
	for _, line := range slices.Concat([]string{
		`"cmp"`, `"encoding/json"`, `"errors"`, `"os"`, `"reflect"`, `"strings"`, strconv.Quote(sbxPath), strconv.Quote(registryPath),
	}, p.imports) {
		fmt.Fprintln(&b, "\t"+line)
	}
	b.WriteString(")\n\nfunc wrap(session *sbx.Session) {\n")
	for _, f := range p.functions {
		fmt.Fprintf(&b, "\tsession.%s(%s)\n", f.method, f.expr)
	}
	b.WriteString("}\n\nvar refused = map[string]string{}\n\nfunc main() {\n")
	for _, t := range p.types {
		fmt.Fprintf(&b, "\tprobe(%q, reflect.TypeOf((*%s)(nil)).Elem())\n", t.name, t.expr)
	}
	for _, f := range p.functions {
		fmt.Fprintf(&b, "\tregistry.%s(%q, %s)\n\tprobeFunction(%q, %s)\n", f.method, f.name, f.expr, f.name, f.expr)
	}
	b.WriteString(`	json.NewEncoder(os.Stdout).Encode(refused)
}

func probe(name string, t reflect.Type) {
	_, err := registry.CodecOf(t)
	refused[name] = ""
	if refusal, ok := errors.AsType[*registry.TypeError](err); ok {
		refused[name] = "refused" + strings.TrimPrefix(refusal.Path, cmp.Or(t.Name(), t.String()))
	}
}

func probeFunction(name string, fn any) {
	entry, ok := registry.Lookup(fn)
	if !ok {
		panic(name)
	}
	refused[name] = ""
	if entry.Err() != nil {
		refused[name] = entry.Err().Error()
	}
}
`)
	return b.Bytes()
}

// path is where the probe's source is thought to be: in this module, so that its versions are those of the corpus.
func (p *probe) path(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("probe", "main.go"))
	require.NoError(t, err)
	return path
}

// find runs the finder over the probe. It returns the names of the functions that can be wrapped, and the expressions
// of those that can't.
func (p *probe) find(t *testing.T) (wrapped, refused map[string]bool) {
	t.Helper()
	source := p.source()
	pkg := loadPackages(t, map[string][]byte{p.path(t): source}, p.flags, "./probe")[0]
	wraps, diagnostics := Find(pkg.Fset, pkg.Types, pkg.TypesInfo, pkg.Syntax)
	wrapped, refused = map[string]bool{}, map[string]bool{}
	for _, wrap := range wraps {
		wrapped[wrap.instanceName()] = true
	}
	for _, d := range diagnostics {
		expr, _, _ := strings.Cut(string(source[pkg.Fset.Position(d.Pos).Offset:]), ")")
		refused[expr] = true
	}
	return wrapped, refused
}

// run builds and runs the probe.
func (p *probe) run(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(source, p.source(), 0o644))
	// Modules of the corpus that go.mod has as indirect ones only are imported: it may change, so it is a copy.
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	p.flags = []string{"-mod=mod", "-modfile=" + filepath.Join(dir, "go.mod")}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{p.path(t): source}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
	cmd := exec.CommandContext(t.Context(), "go", slices.Concat([]string{"run"}, p.flags, []string{"-overlay", filepath.Join(dir, "overlay.json"), "./probe"})...)
	// Examples in one module register the same names.
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOLANG_PROTOBUF_REGISTRATION_CONFLICT=ignore")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%.4000s", stderr.String())
	var refused map[string]string
	require.NoError(t, json.Unmarshal(out, &refused))
	return refused
}
