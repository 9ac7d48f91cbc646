package codegen

import (
	"cmp"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// A Summary says of one package what the checks of whole programs need: what its functions call, and read and write of
// package variables, what it wraps, and what it registers. It refers to everything by name, so that it can be kept as a
// fact of an analyzer. Test files aren't part of it.
type Summary struct {
	Path      string
	Functions map[string]*Behavior // by [types.Func.FullName]; all that runs before main is one, "path.init"
	Types     map[string]TypeParts // the types declared at package level
	Variables map[string]Variable  // those of them of which something is to be known, by "path.name"
	Wraps     []SummaryWrap
	// Registered are the methods of each type that is registered to travel inside interfaces.
	Registered []Methods
	// RegistersMore says that other types are registered, too, which aren't known.
	RegistersMore bool
}

// A Behavior is what one function does, with the function literals in it.
type Behavior struct {
	Name     string   // as its package calls it: "Train", "(*Model).Fit"
	Calls    []string // the functions that it certainly names and calls
	Mentions []string // all functions that it names: something may call them
	Types    []string // the types that it names: something may call their methods
	Reads    []Access // and writes, for which that makes no difference
	Writes   []Access
	May      []Access // writes that something else may do through what this function gives away
	Parses   []Access // parsing a command line, of whatever flags there are
}

// An Access is a read or a write of a package variable.
type Access struct {
	Variable string
	// Inside says that what is written isn't memory of the variable itself: an element of a slice or a map, or what it
	// points to.
	Inside  bool
	Package string // path of the one that the code is in
	At      token.Position
}

// TypeParts are the methods that a type declares, and the types that its declaration names.
type TypeParts struct {
	Methods []string
	Types   []string
}

// A Variable is a package variable as far as its declaration tells of it.
type Variable struct {
	Flag     bool // parsing flags writes it
	Ignored  bool // a comment says that what main writes to it doesn't matter
	NoReason bool // or would, but that it doesn't say why
}

// A SummaryWrap is a [Wrap] in a summary.
type SummaryWrap struct {
	Package    string // path of the one that wraps
	Function   string // by [types.Func.FullName]
	Name       string // as the wrapping package calls it
	At         token.Position
	Interfaces []HeldInterface
}

// Methods are the names of methods, sorted.
type Methods []string

// A HeldInterface is an interface in what a function takes or returns.
type HeldInterface struct {
	Path     string
	Type     string
	OwnField bool // it is in a field of a struct that the package declares
	Methods  Methods
}

// Summarize makes the summary of one type-checked package; wraps are what [Find] returned for it. The files must have
// been parsed with their comments.
func Summarize(fset *token.FileSet, pkg *types.Package, info *types.Info, files []*ast.File, wraps []Wrap) *Summary {
	s := &summarizer{
		fset: fset, pkg: pkg, info: info,
		summary: &Summary{
			Path: pkg.Path(), Functions: map[string]*Behavior{}, Types: map[string]TypeParts{}, Variables: map[string]Variable{},
		},
	}
	s.begin(pkg.Path()+".init", "init")
	for _, file := range files {
		if isTestFile(fset.Position(file.Package).Filename) {
			continue
		}
		for _, decl := range file.Decls {
			s.declaration(decl)
		}
	}
	for _, wrap := range wraps {
		if at := fset.Position(wrap.Pos); !isTestFile(at.Filename) {
			s.wrap(wrap, at)
		}
	}
	for _, behavior := range s.summary.Functions {
		behavior.tidy()
	}
	return s.summary
}

type summarizer struct {
	fset    *token.FileSet
	pkg     *types.Package
	info    *types.Info
	summary *Summary
	now     *Behavior // of the function that is looked at
}

// begin makes the function of this name the one that is looked at.
func (s *summarizer) begin(key, name string) {
	s.now = s.summary.Functions[key]
	if s.now == nil {
		s.now = &Behavior{Name: name}
		s.summary.Functions[key] = s.now
	}
}

func (s *summarizer) declaration(decl ast.Decl) {
	beforeMain := s.pkg.Path() + ".init"
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		fn, ok := s.info.Defs[decl.Name].(*types.Func)
		switch {
		case decl.Recv == nil && decl.Name.Name == "init":
			s.begin(beforeMain, "init")
		case ok && decl.Name.Name != "_":
			s.begin(fn.FullName(), s.nameOf(fn))
		default:
			return
		}
		s.look(decl)
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				s.typeDeclaration(spec)
			case *ast.ValueSpec:
				s.begin(beforeMain, "init")
				s.look(spec)
				s.variables(decl, spec)
			}
		}
	}
}

// nameOf writes a function as its own package does.
func (s *summarizer) nameOf(fn *types.Func) string {
	return strings.ReplaceAll(fn.FullName(), s.pkg.Path()+".", "")
}

func (s *summarizer) typeDeclaration(spec *ast.TypeSpec) {
	name, ok := s.info.Defs[spec.Name].(*types.TypeName)
	if !ok {
		return
	}
	var parts TypeParts
	if named, ok := name.Type().(*types.Named); ok && !name.IsAlias() {
		for method := range named.Methods() {
			parts.Methods = append(parts.Methods, method.FullName())
		}
	}
	s.now = &Behavior{}
	s.look(spec)
	s.now.tidy()
	parts.Types = s.now.Types
	s.summary.Types[typeKey(name)] = parts
}

// variables looks at a declaration for what parses flags and for comments.
func (s *summarizer) variables(decl *ast.GenDecl, spec *ast.ValueSpec) {
	ignored, reason := ignores(VariableOfMain, decl.Doc, spec.Doc, spec.Comment)
	for i, name := range spec.Names {
		v, ok := s.info.Defs[name].(*types.Var)
		if !ok || name.Name == "_" {
			continue
		}
		variable := s.summary.Variables[variableKey(v)]
		variable.Ignored = ignored && reason
		variable.NoReason = ignored && !reason
		if i < len(spec.Values) {
			if call, ok := ast.Unparen(spec.Values[i]).(*ast.CallExpr); ok {
				variable.Flag = variable.Flag || s.flagCall(call) == flagReturned
			}
		}
		if variable != (Variable{}) {
			s.summary.Variables[variableKey(v)] = variable
		}
	}
}

// ignorePrefix begins a comment that silences a finding: //sbxgen:ignore SBX013 the reason.
const ignorePrefix = "//sbxgen:ignore"

// ignores reports whether a comment silences the code, and whether it says why.
func ignores(code Code, groups ...*ast.CommentGroup) (ignored, reason bool) {
	for _, group := range groups {
		if group == nil {
			continue
		}
		for _, comment := range group.List {
			rest, ok := strings.CutPrefix(comment.Text, ignorePrefix)
			words := strings.Fields(rest)
			if ok && len(words) > 0 && words[0] == string(code) {
				ignored, reason = true, reason || len(words) > 1
			}
		}
	}
	return ignored, reason
}

func (s *summarizer) wrap(wrap Wrap, at token.Position) {
	f := &finder{pkg: s.pkg}
	w := SummaryWrap{Package: s.pkg.Path(), Function: wrap.Func.Origin().FullName(), Name: wrap.Func.Name(), At: at}
	if of := f.qualifier(wrap.Func.Pkg()); of != "" {
		w.Name = of + "." + w.Name
	}
	for _, t := range wrap.Types {
		_, interfaces := checkType(t, f.qualifier)
		w.Interfaces = append(w.Interfaces, interfaces...)
	}
	s.summary.Wraps = append(s.summary.Wraps, w)
}

// tidy drops doubles. The accesses are in the order of the source, and the first of each kind is kept.
func (b *Behavior) tidy() {
	for _, names := range []*[]string{&b.Calls, &b.Mentions, &b.Types} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	for _, accesses := range []*[]Access{&b.Reads, &b.Writes, &b.May} {
		slices.SortStableFunc(*accesses, func(a, b Access) int {
			return cmp.Or(strings.Compare(a.Variable, b.Variable), compareBools(a.Inside, b.Inside))
		})
		*accesses = slices.CompactFunc(*accesses, func(a, b Access) bool {
			return a.Variable == b.Variable && a.Inside == b.Inside
		})
	}
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func variableKey(v *types.Var) string { return v.Pkg().Path() + "." + v.Name() }

func typeKey(name *types.TypeName) string { return name.Pkg().Path() + "." + name.Name() }
