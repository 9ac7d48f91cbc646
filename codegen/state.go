package codegen

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// This file finds package variables that a wrapped function reads and only main's side of the program writes. Main doesn't run in the
// sandbox, so the function finds there what the declaration says: a flag's default, an empty configuration.
//
// What is reached is what is referred to, by calls and by values, within the packages that are looked at; what an interface's
// method is isn't known. A variable that anything else may write, a method, an init function or what wrapped functions reach, is left
// alone: a cache is not a mistake.

// A Summary is what one package does with package variables. It says so by names, so that summaries of packages that
// were loaded apart fit together.
type Summary struct {
	Funcs map[string]FuncSummary // by types.Func.FullName
	Wraps map[string]string      // wrapped function → how a message calls it
	Flags []string               // variables that package flag sets
	Quiet []string               // variables whose declaration has an ignore comment
}

// A FuncSummary is what one function does, function literals in it included. What initializes package variables counts as init.
type FuncSummary struct {
	Method bool
	Refs   []string         // functions that it names
	Parse  Place            // where it calls flag.Parse
	Reads  map[string]Place // variable → where it does so first
	Writes map[string]Place
}

// A Place is a position as a message and a diagnostic have it.
type Place struct {
	File      string // absolute
	Line, Col int
	Pos       token.Pos // valid in the package's own file set only
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", filepath.Base(p.File), p.Line) }

// ignorePrefix begins the comment on a variable's declaration that silences findings about it; a reason must follow.
const ignorePrefix = "//sbxgen:ignore " + string(MainState) + " "

// Summarize looks at the files of one type-checked package. wraps are those in it.
func Summarize(fset *token.FileSet, pkg *types.Package, info *types.Info, files []*ast.File, wraps []Wrap) *Summary {
	s := &summarizer{
		fset: fset, info: info, path: pkg.Path(),
		out: &Summary{Funcs: map[string]FuncSummary{}, Wraps: map[string]string{}},
	}
	for _, wrap := range wraps {
		name := wrap.Func.Name()
		if wrap.Func.Pkg() != pkg {
			name = wrap.Func.Pkg().Name() + "." + name
		}
		s.out.Wraps[wrap.Func.Origin().FullName()] = name
	}
	for _, file := range files {
		if isTestFile(fset.Position(file.Package).Filename) {
			continue
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				s.function(decl)
			case *ast.GenDecl:
				s.variables(decl)
			}
		}
	}
	return s.out
}

type summarizer struct {
	fset *token.FileSet
	info *types.Info
	path string
	out  *Summary
	now  FuncSummary // of the function that is looked at
}

func (s *summarizer) begin(name string) {
	s.now = s.out.Funcs[name]
	if s.now.Reads == nil {
		s.now.Reads, s.now.Writes = map[string]Place{}, map[string]Place{}
	}
}

func (s *summarizer) function(decl *ast.FuncDecl) {
	fn, ok := s.info.Defs[decl.Name].(*types.Func)
	if !ok || decl.Body == nil {
		return
	}
	s.begin(fn.FullName()) // all init functions of a package have one name
	s.now.Method = decl.Recv != nil
	s.walk(decl.Body)
	s.out.Funcs[fn.FullName()] = s.now
}

func (s *summarizer) initName() string { return s.path + ".init" }

func (s *summarizer) variables(decl *ast.GenDecl) {
	if decl.Tok != token.VAR {
		return
	}
	s.begin(s.initName())
	for _, spec := range decl.Specs {
		spec, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		quiet := hasIgnore(decl.Doc) || hasIgnore(spec.Doc) || hasIgnore(spec.Comment)
		for i, name := range spec.Names {
			v, ok := s.info.Defs[name].(*types.Var)
			if !ok {
				continue
			}
			if quiet {
				s.out.Quiet = append(s.out.Quiet, variableName(v))
			}
			if i < len(spec.Values) && s.flagCall(spec.Values[i], false) {
				s.out.Flags = append(s.out.Flags, variableName(v))
			}
		}
		for _, value := range spec.Values {
			s.walk(value)
		}
	}
	s.out.Funcs[s.initName()] = s.now
}

func hasIgnore(group *ast.CommentGroup) bool {
	return group != nil && slices.ContainsFunc(group.List, func(c *ast.Comment) bool {
		reason, ok := strings.CutPrefix(c.Text, ignorePrefix)
		return ok && strings.TrimSpace(reason) != ""
	})
}

// flagPackages are those whose variables are set when main parses the command line.
var flagPackages = []string{"flag", "github.com/spf13/pflag"}

// flagCall reports whether an expression is a call of a flag package that declares a flag: one that returns the variable, or one that
// takes its address.
func (s *summarizer) flagCall(expr ast.Expr, address bool) bool {
	call, ok := ast.Unparen(expr).(*ast.CallExpr)
	if !ok {
		return false
	}
	selector, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
	if !ok {
		return false
	}
	fn, ok := s.info.Uses[selector.Sel].(*types.Func)
	if !ok || fn.Pkg() == nil || !slices.Contains(flagPackages, fn.Pkg().Path()) || fn.Signature().Recv() != nil {
		return false
	}
	if address {
		return strings.HasSuffix(fn.Name(), "Var") || strings.HasSuffix(fn.Name(), "VarP")
	}
	results := fn.Signature().Results()
	if results.Len() != 1 {
		return false
	}
	_, ok = results.At(0).Type().(*types.Pointer)
	return ok && fn.Name() != "NewFlagSet" && fn.Name() != "Lookup"
}

// walk notes what an expression or a body does.
func (s *summarizer) walk(node ast.Node) {
	written := map[*ast.Ident]bool{} // written and not read
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				if name := s.write(left); name != nil && n.Tok == token.ASSIGN && ast.Unparen(left) == name {
					written[name] = true
				}
			}
		case *ast.IncDecStmt:
			s.write(n.X)
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				s.write(n.Key)
				s.write(n.Value)
			}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				s.write(n.X)
			}
		case *ast.CallExpr:
			s.call(n)
		case *ast.SelectorExpr:
			// A method with a pointer receiver gets the variable's address.
			if selection := s.info.Selections[n]; selection != nil && selection.Kind() == types.MethodVal {
				if method, ok := selection.Obj().(*types.Func); ok && takesPointer(method) {
					if _, isPointer := selection.Recv().Underlying().(*types.Pointer); !isPointer {
						s.write(n.X)
					}
				}
			}
		case *ast.Ident:
			switch object := s.info.Uses[n].(type) {
			case *types.Func:
				s.now.Refs = append(s.now.Refs, object.Origin().FullName())
				if object.Name() == "Parse" && object.Pkg() != nil && slices.Contains(flagPackages, object.Pkg().Path()) {
					s.now.Parse = s.place(n)
				}
			case *types.Var:
				if isPackageVariable(object) && !written[n] {
					s.note(s.now.Reads, object, n)
				}
			}
		}
		return true
	})
}

func takesPointer(method *types.Func) bool {
	recv := method.Signature().Recv()
	if recv == nil {
		return false
	}
	_, ok := types.Unalias(recv.Type()).(*types.Pointer)
	return ok
}

// call notes builtins that write, and flags that are declared with a variable's address.
func (s *summarizer) call(call *ast.CallExpr) {
	if s.flagCall(call, true) && len(call.Args) > 0 {
		if address, ok := ast.Unparen(call.Args[0]).(*ast.UnaryExpr); ok && address.Op == token.AND {
			if name := s.root(address.X); name != nil && s.variable(name) != nil {
				s.out.Flags = append(s.out.Flags, variableName(s.variable(name)))
			}
		}
	}
	name, ok := ast.Unparen(call.Fun).(*ast.Ident)
	if !ok || len(call.Args) == 0 {
		return
	}
	if builtin, ok := s.info.Uses[name].(*types.Builtin); ok && slices.Contains([]string{"delete", "clear", "copy"}, builtin.Name()) {
		s.write(call.Args[0])
	}
}

// write notes that what an expression stands for is written, and returns the name of the package variable, if it is one.
func (s *summarizer) write(expr ast.Expr) *ast.Ident {
	if expr == nil {
		return nil
	}
	name := s.root(expr)
	if name == nil {
		return nil
	}
	v := s.variable(name)
	if v == nil {
		return nil
	}
	s.note(s.now.Writes, v, name)
	return name
}

func (s *summarizer) variable(name *ast.Ident) *types.Var {
	v, ok := s.info.Uses[name].(*types.Var)
	if !ok || !isPackageVariable(v) {
		return nil
	}
	return v
}

// root is the variable that an expression is a part of: v of v.f[i], and of *v.
func (s *summarizer) root(expr ast.Expr) *ast.Ident {
	switch e := ast.Unparen(expr).(type) {
	case *ast.SelectorExpr:
		if x, ok := ast.Unparen(e.X).(*ast.Ident); ok {
			if _, isPackage := s.info.Uses[x].(*types.PkgName); isPackage {
				return e.Sel
			}
		}
		return s.root(e.X)
	case *ast.IndexExpr:
		return s.root(e.X)
	case *ast.SliceExpr:
		return s.root(e.X)
	case *ast.StarExpr:
		return s.root(e.X)
	case *ast.Ident:
		return e
	}
	return nil
}

func (s *summarizer) note(to map[string]Place, v *types.Var, at *ast.Ident) {
	name := variableName(v)
	if _, ok := to[name]; ok {
		return
	}
	to[name] = s.place(at)
}

func (s *summarizer) place(at *ast.Ident) Place {
	p := s.fset.Position(at.Pos())
	return Place{File: p.Filename, Line: p.Line, Col: p.Column, Pos: at.Pos()}
}

func isPackageVariable(v *types.Var) bool {
	return !v.IsField() && v.Pkg() != nil && v.Parent() == v.Pkg().Scope()
}

func variableName(v *types.Var) string { return v.Pkg().Path() + "." + v.Name() }

// A StateProblem is a package variable that a wrapped function reads and only main's side writes.
type StateProblem struct {
	Message     string
	Read, Write Place
}

// CheckState finds the state problems of a program, whose packages the summaries are of; main is the path of its main package.
func CheckState(main string, summaries []*Summary) []StateProblem {
	p := &state{funcs: map[string]FuncSummary{}}
	quiet, flags := map[string]bool{}, map[string]bool{}
	wraps := map[string]string{}
	for _, s := range summaries {
		maps.Copy(p.funcs, s.Funcs)
		maps.Copy(wraps, s.Wraps)
		for _, v := range s.Quiet {
			quiet[v] = true
		}
		for _, v := range s.Flags {
			flags[v] = true
		}
	}
	var inits []string
	for name := range p.funcs {
		if strings.HasSuffix(name, ".init") {
			inits = append(inits, name)
		}
	}
	inMain := p.reach([]string{main + ".main"})
	remote := p.reach(slices.Sorted(maps.Keys(wraps)))
	beforehand := p.reach(inits)

	var problems []StateProblem
	for _, v := range p.written() {
		if quiet[v] {
			continue
		}
		write, by, ok := p.onlyMainWrites(v, inMain, remote, beforehand, flags[v])
		if !ok {
			continue
		}
		read, reader, ok := p.readBy(v, wraps)
		if !ok {
			continue
		}
		short := v[strings.LastIndexByte(v, '/')+1:]
		if path, name, _ := strings.Cut(short, "."); strings.HasSuffix(main, path) {
			short = name
		}
		problems = append(problems, StateProblem{
			Read: read, Write: write,
			Message: fmt.Sprintf("%s reads %s (%s), which %s (%s): main doesn't run in the sandbox, so it has its initial value there; "+
				"pass it in the argument", reader, short, read, by, write),
		})
	}
	return problems
}

type state struct{ funcs map[string]FuncSummary }

// reach returns all functions that can be reached from some, these included.
func (p *state) reach(from []string) map[string]bool {
	reached := map[string]bool{}
	for len(from) > 0 {
		name := from[len(from)-1]
		from = from[:len(from)-1]
		if !reached[name] {
			reached[name] = true
			from = append(from, p.funcs[name].Refs...)
		}
	}
	return reached
}

// written are the variables that something writes, sorted.
func (p *state) written() []string {
	variables := map[string]bool{}
	for _, f := range p.funcs {
		for v := range f.Writes {
			variables[v] = true
		}
		for v := range f.Reads { // a flag is written by its package
			variables[v] = true
		}
	}
	return slices.Sorted(maps.Keys(variables))
}

// onlyMainWrites reports whether all that writes a variable is what main calls, and nothing else; and where, and what to call it.
func (p *state) onlyMainWrites(v string, inMain, remote, beforehand map[string]bool, flag bool) (at Place, by string, ok bool) {
	parsed := flag && (inMain["flag.Parse"] || inMain["github.com/spf13/pflag.Parse"])
	for _, name := range slices.Sorted(maps.Keys(p.funcs)) {
		f := p.funcs[name]
		place, writes := f.Writes[v]
		switch {
		case !writes:
			continue
		case parsed && (beforehand[name] || inMain[name]) && !remote[name]: // flag.IntVar(&v, …), wherever it stands
		case f.Method, !inMain[name], remote[name], beforehand[name]:
			return Place{}, "", false
		}
		if at.File == "" || place.File < at.File || place.File == at.File && place.Line < at.Line {
			at = place
		}
	}
	switch {
	case parsed && at.File == "":
		if at, ok = p.parsePlace(inMain); ok {
			return at, "flag.Parse sets", true
		}
		return Place{}, "", false
	case parsed:
		return at, "flag.Parse sets", true
	default:
		return at, "only main's side of the program writes", at.File != ""
	}
}

// parsePlace is where a flag that is declared with a variable comes from: the reader of the message looks at main.
func (p *state) parsePlace(inMain map[string]bool) (Place, bool) {
	for _, name := range slices.Sorted(maps.Keys(p.funcs)) {
		f := p.funcs[name]
		if inMain[name] && (slices.Contains(f.Refs, "flag.Parse") || slices.Contains(f.Refs, "github.com/spf13/pflag.Parse")) {
			return f.Parse, true
		}
	}
	return Place{}, false
}

// readBy finds a wrapped function that reaches a read of the variable.
func (p *state) readBy(v string, wraps map[string]string) (at Place, reader string, ok bool) {
	for _, wrapped := range slices.Sorted(maps.Keys(wraps)) {
		for _, name := range slices.Sorted(maps.Keys(p.reach([]string{wrapped}))) {
			if at, ok := p.funcs[name].Reads[v]; ok {
				return at, wraps[wrapped], true
			}
		}
	}
	return Place{}, "", false
}
