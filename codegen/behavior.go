package codegen

import (
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
)

// registryPath is the import path of package registry.
var registryPath = path.Join(sbxPath, "registry")

// look adds what the code of a declaration does to the function that is looked at.
func (s *summarizer) look(decl ast.Node) {
	ast.PreorderStack(decl, nil, func(n ast.Node, stack []ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			s.identifier(n, stack)
		case *ast.CallExpr:
			s.call(n)
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, target := range n.Lhs {
					s.writes(target)
				}
			}
		case *ast.IncDecStmt:
			s.writes(n.X)
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				s.writes(n.Key)
				s.writes(n.Value)
			}
		}
		return true
	})
}

func (s *summarizer) call(call *ast.CallExpr) {
	if fn := typeutil.StaticCallee(s.info, call); fn != nil {
		s.now.Calls = append(s.now.Calls, fn.Origin().FullName())
	}
	if registers(s.info, call) {
		if t := registeredType(s.info, call); t == nil || typeParameter(t) != nil {
			s.summary.RegistersMore = true
		} else if !types.IsInterface(t) {
			s.summary.Registered = append(s.summary.Registered, methodsOf(t))
		}
	}
	switch s.flagCall(call) {
	case flagGiven:
		if v, _ := s.variable(addressed(call.Args[0])); v != nil {
			variable := s.summary.Variables[variableKey(v)]
			variable.Flag = true
			s.summary.Variables[variableKey(v)] = variable
		}
	case flagsParsed:
		s.now.Parses = append(s.now.Parses, s.access("", false, call))
	}
	switch name, ok := ast.Unparen(call.Fun).(*ast.Ident); {
	case !ok || s.info.Uses[name] == nil || s.info.Uses[name].Parent() != types.Universe:
	case name.Name == "delete" || name.Name == "clear" || name.Name == "copy":
		if v, _ := s.variable(call.Args[0]); v != nil {
			s.write(v, true, call.Args[0])
		}
	}
}

func (s *summarizer) identifier(name *ast.Ident, stack []ast.Node) {
	switch object := s.info.Uses[name].(type) {
	case *types.Func:
		s.now.Mentions = append(s.now.Mentions, object.Origin().FullName())
	case *types.TypeName:
		if object.Pkg() != nil {
			s.now.Types = append(s.now.Types, typeKey(object))
		}
	case *types.Var:
		if object.Kind() == types.PackageVar && object.Pkg() != nil {
			s.use(object, name, stack)
		}
	}
}

// use looks at one place that names a package variable.
func (s *summarizer) use(v *types.Var, name *ast.Ident, stack []ast.Node) {
	whole, inside := ast.Expr(name), false // the operand that begins with the variable, as far as it goes
	for i := len(stack) - 1; ; i-- {
		if i < 0 {
			return
		}
		switch parent := stack[i].(type) {
		case *ast.ParenExpr:
			whole = parent
			continue
		case *ast.SelectorExpr:
			if parent.Sel == whole { // the variable of another package
				whole = parent
				continue
			}
			if selection := s.info.Selections[parent]; selection == nil || selection.Kind() != types.FieldVal {
				s.method(v, whole, inside, selection)
				return
			}
			inside = inside || s.pointsOn(whole)
			whole = parent
			continue
		case *ast.IndexExpr:
			if parent.X == whole {
				inside = inside || s.pointsOn(whole)
				whole = parent
				continue
			}
		case *ast.StarExpr:
			inside, whole = true, parent
			continue
		}
		s.operand(v, whole, inside, stack[:i+1])
		return
	}
}

// operand looks at what is done with an operand that begins with the variable.
func (s *summarizer) operand(v *types.Var, whole ast.Expr, inside bool, stack []ast.Node) {
	parent := stack[len(stack)-1]
	access := s.access(variableKey(v), false, whole)
	switch parent := parent.(type) {
	case *ast.UnaryExpr:
		if parent.Op == token.AND {
			if !s.givenToFlags(parent, stack) {
				s.now.May = append(s.now.May, Access{Variable: access.Variable, Inside: inside})
			}
			return
		}
	case *ast.SliceExpr:
		if parent.X == whole {
			s.now.May = append(s.now.May, Access{Variable: access.Variable, Inside: inside || s.pointsOn(whole)})
		}
	}
	s.now.Reads = append(s.now.Reads, access)
	if !isPlain(s.info.TypeOf(whole), nil) && !s.onlyLooks(whole, parent) {
		s.now.May = append(s.now.May, Access{Variable: access.Variable, Inside: true})
	}
}

// method looks at the use of a method of an operand that begins with the variable.
func (s *summarizer) method(v *types.Var, whole ast.Expr, inside bool, selection *types.Selection) {
	access := s.access(variableKey(v), false, whole)
	s.now.Reads = append(s.now.Reads, access)
	if selection == nil {
		return
	}
	byPointer := false
	if method, ok := selection.Obj().(*types.Func); ok && method.Signature().Recv() != nil {
		_, byPointer = method.Signature().Recv().Type().Underlying().(*types.Pointer)
	}
	t := s.info.TypeOf(whole)
	switch {
	case byPointer && !s.pointsOn(whole):
		s.now.May = append(s.now.May, Access{Variable: access.Variable, Inside: inside})
	case !isPlain(t, nil):
		s.now.May = append(s.now.May, Access{Variable: access.Variable, Inside: true})
	}
}

// onlyLooks reports whether what an operand is part of can't give away what it refers to.
func (s *summarizer) onlyLooks(whole ast.Expr, parent ast.Node) bool {
	switch parent := parent.(type) {
	case *ast.BinaryExpr:
		return true
	case *ast.CallExpr:
		name, ok := ast.Unparen(parent.Fun).(*ast.Ident)
		return parent.Fun == whole || ok && (name.Name == "len" || name.Name == "cap")
	}
	return false
}

// writes adds the write of a target that begins with a package variable.
func (s *summarizer) writes(target ast.Expr) {
	if v, inside := s.variable(target); v != nil {
		s.write(v, inside, target)
	}
}

func (s *summarizer) write(v *types.Var, inside bool, at ast.Node) {
	s.now.Writes = append(s.now.Writes, s.access(variableKey(v), inside, at))
}

func (s *summarizer) access(variable string, inside bool, at ast.Node) Access {
	return Access{Variable: variable, Inside: inside, Package: s.pkg.Path(), At: s.fset.Position(at.Pos())}
}

// variable returns the package variable that an operand begins with, and whether the operand is memory that the variable
// only refers to.
func (s *summarizer) variable(operand ast.Expr) (v *types.Var, inside bool) {
	for {
		switch e := operand.(type) {
		case *ast.ParenExpr:
			operand = e.X
		case *ast.StarExpr:
			inside, operand = true, e.X
		case *ast.IndexExpr:
			inside = inside || s.pointsOn(e.X)
			operand = e.X
		case *ast.SelectorExpr:
			if s.info.Selections[e] == nil {
				operand = e.Sel
				continue
			}
			inside = inside || s.pointsOn(e.X)
			operand = e.X
		case *ast.Ident:
			v, ok := s.info.Uses[e].(*types.Var)
			if !ok || v.Kind() != types.PackageVar || v.Pkg() == nil {
				return nil, false
			}
			return v, inside
		default:
			return nil, false
		}
	}
}

// pointsOn reports whether the elements or fields of an operand are elsewhere.
func (s *summarizer) pointsOn(operand ast.Expr) bool {
	t := s.info.TypeOf(operand)
	if t == nil {
		return false
	}
	switch t.Underlying().(type) {
	case *types.Pointer, *types.Slice, *types.Map:
		return true
	}
	return false
}

// isPlain reports whether a copy of a value has nothing in common with the value.
func isPlain(t types.Type, within []types.Type) bool {
	if t == nil || slices.Contains(within, t) {
		return true
	}
	within = append(within, t)
	switch u := t.Underlying().(type) {
	case *types.Basic:
		return u.Kind() != types.UnsafePointer
	case *types.Array:
		return isPlain(u.Elem(), within)
	case *types.Struct:
		for field := range u.Fields() {
			if !isPlain(field.Type(), within) {
				return false
			}
		}
		return true
	}
	return false
}

// What a call is to the packages that parse a command line.
type flagUse int

const (
	noFlag       flagUse = iota
	flagReturned         // flag.Int and the like: parsing writes what is returned
	flagGiven            // flag.IntVar and the like: parsing writes what the first argument points to
	flagsParsed
)

func (s *summarizer) flagCall(call *ast.CallExpr) flagUse {
	fn := typeutil.StaticCallee(s.info, call)
	if fn == nil || fn.Pkg() == nil {
		return noFlag
	}
	switch fn.Pkg().Path() {
	case "flag", "github.com/spf13/pflag":
	case "github.com/spf13/cobra":
		if fn.Name() == "Execute" || fn.Name() == "ExecuteContext" {
			return flagsParsed
		}
		return noFlag
	default:
		return noFlag
	}
	results := fn.Signature().Results()
	switch name := strings.TrimSuffix(fn.Name(), "P"); {
	case fn.Name() == "Parse":
		return flagsParsed
	case strings.HasSuffix(name, "Var") && len(call.Args) > 0:
		return flagGiven
	case results.Len() == 1 && fn.Signature().Params().Len() >= 3:
		if _, ok := results.At(0).Type().(*types.Pointer); ok {
			return flagReturned
		}
	}
	return noFlag
}

// addressed returns x for &x, and the expression itself otherwise.
func addressed(expr ast.Expr) ast.Expr {
	if unary, ok := ast.Unparen(expr).(*ast.UnaryExpr); ok && unary.Op == token.AND {
		return unary.X
	}
	return expr
}

// givenToFlags reports whether the operand is what flag.IntVar and the like are given to write to.
func (s *summarizer) givenToFlags(address *ast.UnaryExpr, stack []ast.Node) bool {
	for _, n := range slices.Backward(stack) {
		if call, ok := n.(*ast.CallExpr); ok {
			return s.flagCall(call) == flagGiven && ast.Unparen(call.Args[0]) == address
		}
	}
	return false
}

// registers reports whether a call is one of registry.Type.
func registers(info *types.Info, call *ast.CallExpr) bool {
	fn := typeutil.StaticCallee(info, call)
	return fn != nil && fn.Name() == "Type" && fn.Signature().Recv() == nil && fn.Pkg() != nil && fn.Pkg().Path() == registryPath
}

// registeredType returns the type that a call of registry.Type registers.
func registeredType(info *types.Info, call *ast.CallExpr) types.Type {
	fun := ast.Unparen(call.Fun)
	if index, ok := fun.(*ast.IndexExpr); ok {
		return info.TypeOf(index.Index)
	}
	return nil
}

func methodsOf(t types.Type) Methods {
	var methods Methods
	for method := range types.NewMethodSet(t).Methods() {
		methods = append(methods, method.Obj().Name())
	}
	return methods // sorted: a method set is
}
