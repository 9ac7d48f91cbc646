package codegen

import (
	"cmp"
	"go/ast"
	"go/types"
	"slices"
	"strings"
)

// declared returns the function that the argument of a wrapping call names, and the identifier that names it. For
// everything that isn't the name of a declared function it reports what it is and returns nil.
func (f *finder) declared(arg ast.Expr) (*ast.Ident, *types.Func) {
	expr := ast.Unparen(arg)
	if f.info.Types[expr].IsNil() {
		f.report(NilWrapped, arg, "nil is wrapped: wrap a declared function")
		return nil, nil
	}
	name := expr
	switch index := expr.(type) {
	case *ast.IndexExpr:
		name = ast.Unparen(index.X)
	case *ast.IndexListExpr:
		name = ast.Unparen(index.X)
	}
	switch e := name.(type) {
	case *ast.Ident:
		if fn, ok := f.info.Uses[e].(*types.Func); ok {
			return e, fn
		}
	case *ast.SelectorExpr:
		if fn, ok := f.info.Uses[e.Sel].(*types.Func); ok && f.info.Selections[e] == nil {
			return e.Sel, fn
		}
	}
	if !f.canBeFunction(expr) {
		f.unknown(arg)
		return nil, nil
	}
	f.explain(arg, expr)
	return nil, nil
}

// canBeFunction reports whether an expression is a value that could be a function: of a function's type, or of one that
// is only known to be an interface or a type parameter.
func (f *finder) canBeFunction(expr ast.Expr) bool {
	value := f.info.Types[expr]
	if !value.IsValue() {
		return false
	}
	switch value.Type.Underlying().(type) {
	case *types.Signature, *types.Interface:
		return true
	}
	return false
}

// unknown reports an argument that the type checker could make nothing of. As a rule it has said why, and only that is
// shown; but not so if generated files, which are hidden, declare what is missing.
func (f *finder) unknown(arg ast.Expr) {
	f.report(Broken, arg, "the types of this call are unknown: wrap a function that is declared in a file of yours")
}

// explain reports what the argument is, given that it isn't the name of a declared function.
func (f *finder) explain(arg, expr ast.Expr) {
	text := types.ExprString(expr)
	switch e := expr.(type) {
	case *ast.FuncLit:
		f.explainLiteral(arg, e)
		return
	case *ast.SelectorExpr:
		if selection := f.info.Selections[e]; selection != nil {
			f.explainSelection(arg, e, selection)
			return
		}
		f.notDeclared(arg, text, f.variableKind(e.Sel))
	case *ast.Ident:
		f.notDeclared(arg, text, f.variableKind(e))
	case *ast.CallExpr:
		if f.info.Types[e.Fun].IsType() {
			f.notDeclared(arg, text, "a conversion")
			return
		}
		f.notDeclared(arg, types.ExprString(e.Fun)+"(…)", "the result of a call")
	case *ast.IndexExpr:
		f.notDeclared(arg, text, "an element of "+types.ExprString(e.X))
	default:
		f.notDeclared(arg, text, "an expression")
	}
}

func (f *finder) notDeclared(arg ast.Expr, text, kind string) {
	f.report(NotDeclared, arg, "%s is %s, so which function it is isn't known before the program runs: "+
		"wrap a declared function by its name", text, kind)
}

// variableKind says what kind of variable an identifier is.
func (f *finder) variableKind(name *ast.Ident) string {
	v, ok := f.info.Uses[name].(*types.Var)
	if !ok {
		return "not a function"
	}
	switch v.Kind() {
	case types.PackageVar:
		return "a package variable"
	case types.ParamVar:
		return "a parameter"
	case types.ResultVar:
		return "a named result"
	default:
		return "a local variable"
	}
}

// explainSelection reports x.f where x is a value or a type.
func (f *finder) explainSelection(arg ast.Expr, selector *ast.SelectorExpr, selection *types.Selection) {
	text := types.ExprString(selector)
	switch selection.Kind() {
	case types.FieldVal:
		f.notDeclared(arg, text, "a struct field")
	case types.MethodExpr:
		f.report(MethodWrapped, arg, "%s is a method expression: declare a function that takes the %s in its argument, and wrap that",
			text, f.typeText(selection.Recv()))
	default:
		f.report(MethodWrapped, arg, "%s is a method value, bound to a %s that wouldn't be sent: "+
			"declare a function that takes the %s in its argument, and wrap that",
			text, f.typeText(selection.Recv()), f.typeText(selection.Recv()))
	}
}

// explainLiteral reports a function literal with the variables that it captures.
func (f *finder) explainLiteral(arg ast.Expr, literal *ast.FuncLit) {
	captured := f.captured(literal)
	if len(captured) == 0 {
		f.report(FuncLiteral, arg, "a function literal has no name that a sandbox could find it by: "+
			"declare it as a function of the package, and wrap that")
		return
	}
	texts := make([]string, len(captured))
	for i, v := range captured {
		texts[i] = v.Name() + " (" + f.typeText(v.Type()) + ")"
	}
	f.report(FuncLiteral, arg, "a function literal captures %s, which wouldn't be sent: "+
		"declare a function of the package, pass it what it needs in its argument, and wrap that", strings.Join(texts, ", "))
}

// captured returns the variables of surrounding functions that the literal uses, sorted by name.
func (f *finder) captured(literal *ast.FuncLit) []*types.Var {
	var captured []*types.Var
	ast.Inspect(literal, func(n ast.Node) bool {
		name, ok := n.(*ast.Ident)
		if !ok {
			return true
		}
		v, ok := f.info.Uses[name].(*types.Var)
		if !ok || v.IsField() || v.Kind() == types.PackageVar || literal.Pos() <= v.Pos() && v.Pos() < literal.End() {
			return true
		}
		if !slices.Contains(captured, v) {
			captured = append(captured, v)
		}
		return true
	})
	slices.SortFunc(captured, func(a, b *types.Var) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), cmp.Compare(a.Pos(), b.Pos()))
	})
	return captured
}
