package codegen

import (
	"fmt"
	"go/token"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// CheckProgram returns what is wrong with a program as a whole: what its functions would find other than expected in the
// sandbox, and what could never be sent. The summaries are those of the main package and of all packages that it
// imports, directly or not, as far as the program's own module goes. The findings are warnings, at the places where
// functions are wrapped.
func CheckProgram(main string, summaries []*Summary) []Diagnostic {
	summaries = slices.SortedFunc(slices.Values(summaries), func(a, b *Summary) int { return strings.Compare(a.Path, b.Path) })
	p := &program{main: main, functions: map[string]*Behavior{}, types: map[string]TypeParts{}, variables: map[string]Variable{}}
	for _, s := range summaries {
		p.paths = append(p.paths, s.Path)
		for key, behavior := range s.Functions {
			p.functions[key] = behavior
		}
		for key, parts := range s.Types {
			p.types[key] = parts
		}
		for key, variable := range s.Variables {
			known := p.variables[key]
			p.variables[key] = Variable{
				Flag: known.Flag || variable.Flag, Ignored: known.Ignored || variable.Ignored, NoReason: known.NoReason || variable.NoReason,
			}
		}
		p.wraps = append(p.wraps, s.Wraps...)
		p.registered = append(p.registered, s.Registered...)
		p.registersMore = p.registersMore || s.RegistersMore
	}
	p.checkVariables()
	p.checkInterfaces()
	return tidy(p.diagnostics)
}

type program struct {
	main          string // path of the main package
	paths         []string
	functions     map[string]*Behavior
	types         map[string]TypeParts
	variables     map[string]Variable
	wraps         []SummaryWrap
	registered    []Methods
	registersMore bool
	diagnostics   []Diagnostic
}

func (p *program) report(code Code, at token.Position, format string, args ...any) {
	p.diagnostics = append(p.diagnostics, Diagnostic{Code: code, Position: at, Message: fmt.Sprintf(format, args...)})
}

// checkVariables looks for variables that wrapped functions read and that only main's side writes. What may run in the
// worker is taken broadly, with all that something might call, and what runs in main narrowly; what isn't certain is
// not reported.
func (p *program) checkVariables() {
	if len(p.wraps) == 0 {
		return
	}
	var roots []string
	for _, path := range p.paths {
		roots = append(roots, path+".init")
	}
	for _, wrap := range p.wraps {
		roots = append(roots, wrap.Function)
	}
	inWorker := p.reachable(roots, true)
	inMain := p.reachable([]string{p.main + ".main"}, false)
	for _, wrap := range p.wraps {
		for _, read := range p.reads(wrap.Function) {
			if p.variables[read.Variable].Ignored || !slices.Contains(p.paths, packageOf(read.Variable)) {
				continue
			}
			if written, by := p.writtenOnlyIn(inMain, inWorker, read.Variable); by != "" {
				p.reportVariable(wrap, read, written, by)
			}
		}
	}
}

func (p *program) reportVariable(wrap SummaryWrap, read, written Access, by string) {
	hint := ""
	if p.variables[read.Variable].NoReason {
		hint = fmt.Sprintf(" (the comment %s %s needs a reason)", ignorePrefix, VariableOfMain)
	}
	p.report(VariableOfMain, wrap.At, "%s reads %s (%s), which %s writes (%s): main doesn't run in the sandbox, "+
		"so it has its initial value there; pass it in the argument%s",
		wrap.Name, shortName(read.Variable, wrap.Package), read.place(wrap.Package), by, written.place(wrap.Package), hint)
}

// packageOf is the path in "path/pkg.name".
func packageOf(key string) string { return key[:strings.LastIndexByte(key, '.')] }

// shortName writes "path/pkg.name" as the package at from does.
func shortName(key, from string) string {
	if name, ok := strings.CutPrefix(key, from+"."); ok {
		return name
	}
	return path.Base(key)
}

// place is a file's name and the line. In another package than the one at from, that package's last element is before it.
func (a Access) place(from string) string {
	name := filepath.Base(a.At.Filename)
	if a.Package != from {
		name = path.Base(a.Package) + "/" + name
	}
	return fmt.Sprintf("%s:%d", name, a.At.Line)
}

// reachable returns the functions that the roots lead to; with methods also those of all types on the way, for something
// might call them.
func (p *program) reachable(roots []string, methods bool) map[string]bool {
	reached, seenTypes := map[string]bool{}, map[string]bool{}
	var visit func(string)
	var visitType func(string)
	visit = func(name string) {
		behavior := p.functions[name]
		if behavior == nil || reached[name] {
			return
		}
		reached[name] = true
		for _, mentioned := range behavior.Mentions {
			visit(mentioned)
		}
		if methods {
			for _, t := range behavior.Types {
				visitType(t)
			}
		}
	}
	visitType = func(name string) {
		if seenTypes[name] {
			return
		}
		seenTypes[name] = true
		for _, method := range p.types[name].Methods {
			visit(method)
		}
		for _, part := range p.types[name].Types {
			visitType(part)
		}
	}
	for _, root := range roots {
		visit(root)
	}
	return reached
}

// reads returns the first read of each variable by a function and what it certainly calls, nearest first.
func (p *program) reads(function string) []Access {
	var reads []Access
	seenVariables := map[string]bool{}
	seen := map[string]bool{function: true}
	for queue := []string{function}; len(queue) > 0; queue = queue[1:] {
		behavior := p.functions[queue[0]]
		if behavior == nil {
			continue
		}
		for _, read := range behavior.Reads {
			if !seenVariables[read.Variable] {
				seenVariables[read.Variable] = true
				reads = append(reads, read)
			}
		}
		for _, called := range behavior.Calls {
			if !seen[called] {
				seen[called] = true
				queue = append(queue, called)
			}
		}
	}
	return reads
}

// writtenOnlyIn returns the first write of a variable in main's part of the program, and what does it; nothing if the
// worker's part may write it too.
func (p *program) writtenOnlyIn(inMain, inWorker map[string]bool, variable string) (written Access, by string) {
	isFlag := p.variables[variable].Flag
	consider := func(access Access, name string) {
		if access.Variable == variable && (by == "" || comparePositions(access.At, written.At) < 0) {
			written, by = access, name
		}
	}
	for name := range inMain {
		behavior := p.functions[name]
		for _, write := range behavior.Writes {
			consider(write, behavior.Name)
		}
		for _, parse := range behavior.Parses {
			if isFlag {
				parse.Variable = variable
				consider(parse, "parsing the flags")
			}
		}
	}
	if by == "" {
		return Access{}, ""
	}
	for name := range inWorker {
		behavior := p.functions[name]
		mayWrite := func(access Access) bool {
			// What a copy refers to can be written through it, but not the variable.
			return access.Variable == variable && (!access.Inside || written.Inside)
		}
		if slices.ContainsFunc(behavior.Writes, func(a Access) bool { return a.Variable == variable }) ||
			slices.ContainsFunc(behavior.May, mayWrite) || isFlag && len(behavior.Parses) > 0 {
			return Access{}, ""
		}
	}
	return written, by
}

// checkInterfaces looks for interfaces in what is sent of which only nil could be.
func (p *program) checkInterfaces() {
	if p.registersMore {
		return
	}
	for _, wrap := range p.wraps {
		for _, held := range wrap.Interfaces {
			if !slices.ContainsFunc(slices.Concat(p.registered, unregistered), held.Methods.within) {
				remedy := "call registry.Type[T]() from init for each type T that it holds"
				if held.OwnField {
					remedy += ", or leave it out with the tag `msgpack:\"-\"`"
				}
				p.report(NothingRegistered, wrap.At, "%s is an interface, and no type that implements it is registered, so only nil can be sent; %s",
					typeAt(held.Path, held.Type), remedy)
			}
		}
	}
}

// unregistered are the types with methods that package registry knows by itself.
var unregistered = []Methods{methodNames(reflect.TypeFor[time.Time]()), methodNames(reflect.TypeFor[time.Duration]())}

func methodNames(t reflect.Type) Methods {
	var names Methods
	for i := range t.NumMethod() {
		names = append(names, t.Method(i).Name)
	}
	return names
}

// within reports whether all of the methods are among the others. That the names are the same is enough: where that is
// wrong, the program finds out.
func (m Methods) within(others Methods) bool {
	return !slices.ContainsFunc(m, func(name string) bool { return !slices.Contains(others, name) })
}
