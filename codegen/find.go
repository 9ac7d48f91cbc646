package codegen

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
)

// wrappingMethods are the methods of *sbx.Session that wrap a function. Package registry has a function of the same name
// and with the same type parameters for each.
var wrappingMethods = []string{"Function", "Function0", "Function2", "Action"}

// A Wrap is one call of a wrapping method with a declared function.
type Wrap struct {
	Method   string       // "Function"
	Types    []types.Type // the method's type arguments
	Func     *types.Func  // the wrapped function; the generic one if it is an instance
	TypeArgs []types.Type // the function's type arguments, if it is an instance
	Pos      token.Pos    // of the argument
}

// Find returns the wraps in the files of one type-checked package. The diagnostics are what is wrong with those that
// can't be, and the sessions that are opened before main runs. Info must have Types, Uses, Selections and Instances.
func Find(fset *token.FileSet, pkg *types.Package, info *types.Info, files []*ast.File) ([]Wrap, []Diagnostic) {
	f := &finder{fset: fset, pkg: pkg, info: info}
	for _, file := range files {
		ast.PreorderStack(file, nil, func(n ast.Node, stack []ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if f.wraps(n) {
					f.use(n, stack)
				}
			case *ast.CallExpr:
				f.opens(n, stack)
				f.registers(n)
			}
			return true
		})
	}
	return f.found, f.diagnostics
}

type finder struct {
	fset        *token.FileSet
	pkg         *types.Package
	info        *types.Info
	found       []Wrap
	diagnostics []Diagnostic
}

func (f *finder) report(code Code, at ast.Node, format string, args ...any) {
	f.diagnostics = append(f.diagnostics, Diagnostic{
		Code: code, Pos: at.Pos(), Position: f.fset.Position(at.Pos()), Message: fmt.Sprintf(format, args...),
	})
}

// wraps reports whether the selector is a use of a wrapping method, through whatever it is reached.
func (f *finder) wraps(selector *ast.SelectorExpr) bool {
	method, ok := f.info.Uses[selector.Sel].(*types.Func)
	if !ok || !slices.Contains(wrappingMethods, method.Name()) || method.Signature().Recv() == nil {
		return false
	}
	receiver := method.Origin().Signature().Recv().Type()
	if pointer, ok := types.Unalias(receiver).(*types.Pointer); ok {
		receiver = pointer.Elem()
	}
	named, ok := types.Unalias(receiver).(*types.Named)
	return ok && named.Obj().Name() == "Session" && named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == sbxPath
}

// use looks at one use of a wrapping method; stack is what the selector stands in.
func (f *finder) use(selector *ast.SelectorExpr, stack []ast.Node) {
	method := selector.Sel.Name
	call := calledBy(selector, stack)
	selection := f.info.Selections[selector]
	if call == nil || selection == nil || selection.Kind() != types.MethodVal {
		f.report(NotCalled, selector, "%s is used as a value, so what it wraps isn't known before the program runs: "+
			"call it directly, session.%s(F)", types.ExprString(selector), method)
		return
	}
	if len(call.Args) == 0 {
		return // the type checker says so
	}
	arg := call.Args[0]
	name, fn := f.declared(arg)
	if fn == nil {
		return
	}
	instance, ok := f.info.Instances[selector.Sel]
	if !ok {
		f.unknown(arg)
		return
	}
	wrap := Wrap{Method: method, Types: list(instance.TypeArgs), Func: fn, Pos: arg.Pos()}
	if fn.Signature().TypeParams().Len() > 0 {
		wrap.TypeArgs = list(f.info.Instances[name].TypeArgs)
	}
	if f.checkTypes(wrap, arg) {
		f.found = append(f.found, wrap)
	}
}

// opens reports a call of sbx.Open that runs before main does. Tests are left alone: they may mean it.
func (f *finder) opens(call *ast.CallExpr, stack []ast.Node) {
	fn, ok := typeutil.Callee(f.info, call).(*types.Func)
	if !ok || fn.Name() != "Open" || fn.Signature().Recv() != nil || fn.Pkg() == nil || fn.Pkg().Path() != sbxPath ||
		isTestFile(f.fset.Position(call.Pos()).Filename) {
		return
	}
	if where := beforeMain(stack); where != "" {
		f.report(OpenedInInit, call, "%s runs in the sandbox too, where sbx.Open fails: open sessions in main, or in a function that it calls",
			where)
	}
}

// registers reports a call of registry.Type that can only fail. Tests are left alone: they may mean it.
func (f *finder) registers(call *ast.CallExpr) {
	if !registers(f.info, call) || isTestFile(f.fset.Position(call.Pos()).Filename) {
		return
	}
	t := registeredType(f.info, call)
	if t == nil || typeParameter(t) != nil {
		return
	}
	if types.IsInterface(t) {
		f.report(BadRegistration, call, "%s is an interface, and registering one panics: register the types that it holds", f.typeText(t))
		return
	}
	for _, problem := range CheckType(t, f.qualifier) {
		f.report(BadRegistration, call, "no value of %s can be sent, registered or not: %s", f.typeText(t), problem)
	}
}

// beforeMain says what runs before main does the code whose surroundings are on the stack; it is empty for code that
// some caller runs. A function literal that is called where it stands is part of what is around it.
func beforeMain(stack []ast.Node) string {
	for i, n := range slices.Backward(stack) {
		switch n := n.(type) {
		case *ast.FuncLit:
			if calledBy(n, stack[:i]) == nil {
				return ""
			}
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				return "an init function"
			}
			return ""
		}
	}
	return "the initialization of a package variable"
}

// calledBy returns the call whose function the expression is, with or without parentheses and type arguments.
func calledBy(fn ast.Expr, stack []ast.Node) *ast.CallExpr {
	child := fn
	for _, n := range slices.Backward(stack) {
		switch n := n.(type) {
		case *ast.ParenExpr:
			child = n
		case *ast.IndexExpr:
			if n.X != child {
				return nil
			}
			child = n
		case *ast.IndexListExpr:
			if n.X != child {
				return nil
			}
			child = n
		case *ast.CallExpr:
			if n.Fun != child {
				return nil
			}
			return n
		default:
			return nil
		}
	}
	return nil
}

// checkTypes reports whether all types that take part can be named and sent.
func (f *finder) checkTypes(wrap Wrap, arg ast.Expr) bool {
	all := slices.Concat(wrap.Types, wrap.TypeArgs)
	for _, t := range all {
		if parameter := typeParameter(t); parameter != nil {
			f.report(TypeParameter, arg, "%s is wrapped with the type parameter %s of the code around it, so there is one function for "+
				"every type: wrap it where the type is known, and pass the wrapped function in",
				types.ExprString(arg), parameter)
			return false
		}
	}
	for _, t := range all {
		if local := localType(t); local != nil {
			f.report(LocalType, arg, "%s is declared inside a function, so no generated code can name it: declare it at package level",
				local.Name())
			return false
		}
	}
	var problems []TypeProblem
	for _, t := range wrap.Types {
		problems = append(problems, CheckType(t, f.qualifier)...)
	}
	for _, problem := range problems[:min(len(problems), maxProblems)] {
		f.report(Unsendable, arg, "%s", problem)
	}
	if more := len(problems) - maxProblems; more > 0 {
		f.report(Unsendable, arg, "%s: there are %d more places that can't be sent; a type made for sending, with what the function needs, may be less work",
			types.ExprString(arg), more)
	}
	return len(problems) == 0
}

// maxProblems is how many places are named that keep the types of one function from being sent.
const maxProblems = 10

// qualifier writes types as the user does: with the package's name, and without it in the package itself.
func (f *finder) qualifier(pkg *types.Package) string {
	if pkg == f.pkg {
		return ""
	}
	return pkg.Name()
}

func (f *finder) typeText(t types.Type) string { return types.TypeString(t, f.qualifier) }

// typeParameter returns a type parameter that t mentions, or nil.
func typeParameter(t types.Type) *types.TypeParam {
	var found *types.TypeParam
	walkType(t, func(t types.Type) bool {
		if parameter, ok := t.(*types.TypeParam); ok {
			found = parameter
		}
		return found == nil
	})
	return found
}

// localType returns a type declared inside a function that t mentions, or nil. An alias is looked through.
func localType(t types.Type) *types.TypeName {
	var found *types.TypeName
	walkType(t, func(t types.Type) bool {
		if named, ok := types.Unalias(t).(*types.Named); ok && isLocal(named.Obj()) {
			found = named.Obj()
		}
		return found == nil
	})
	return found
}

func isLocal(name *types.TypeName) bool {
	return name.Pkg() != nil && name.Parent() != name.Pkg().Scope()
}

// walkType calls visit for t and the types that its text mentions; it doesn't look inside one for which visit returns
// false. Inside a named type are its type arguments, and not what it is made of; inside an alias is also what it stands
// for.
func walkType(t types.Type, visit func(types.Type) bool) {
	if !visit(t) {
		return
	}
	var inner []types.Type
	switch t := t.(type) {
	case *types.Alias:
		inner = append(list(t.TypeArgs()), types.Unalias(t))
	case *types.Named:
		inner = list(t.TypeArgs())
	case *types.Pointer:
		inner = []types.Type{t.Elem()}
	case *types.Slice:
		inner = []types.Type{t.Elem()}
	case *types.Array:
		inner = []types.Type{t.Elem()}
	case *types.Chan:
		inner = []types.Type{t.Elem()}
	case *types.Map:
		inner = []types.Type{t.Key(), t.Elem()}
	case *types.Struct:
		for field := range t.Fields() {
			inner = append(inner, field.Type())
		}
	case *types.Signature:
		for v := range t.Params().Variables() {
			inner = append(inner, v.Type())
		}
		for v := range t.Results().Variables() {
			inner = append(inner, v.Type())
		}
	case *types.Interface:
		for method := range t.ExplicitMethods() {
			inner = append(inner, method.Type())
		}
		for embedded := range t.EmbeddedTypes() {
			inner = append(inner, embedded)
		}
	case *types.Union:
		for term := range t.Terms() {
			inner = append(inner, term.Type())
		}
	}
	for _, t := range inner {
		walkType(t, visit)
	}
}

func list(l *types.TypeList) []types.Type {
	return slices.Collect(l.Types())
}

// instanceName is the function's name in the registry: "example.com/m.Train", "example.com/m.Gen[int]".
func (w Wrap) instanceName() string {
	name := w.Func.Pkg().Path() + "." + w.Func.Name()
	if len(w.TypeArgs) == 0 {
		return name
	}
	args := make([]string, len(w.TypeArgs))
	for i, t := range w.TypeArgs {
		args[i] = types.TypeString(withoutAliases(t), (*types.Package).Path)
	}
	return name + "[" + strings.Join(args, ", ") + "]"
}

// withoutAliases makes two spellings of a type argument one name. Struct, function and interface literals stay as they
// are spelled.
func withoutAliases(t types.Type) types.Type {
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		args := list(t.TypeArgs())
		if len(args) == 0 {
			return t
		}
		for i := range args {
			args[i] = withoutAliases(args[i])
		}
		if instance, err := types.Instantiate(nil, t.Origin(), args, false); err == nil {
			return instance
		}
		return t
	case *types.Pointer:
		return types.NewPointer(withoutAliases(t.Elem()))
	case *types.Slice:
		return types.NewSlice(withoutAliases(t.Elem()))
	case *types.Array:
		return types.NewArray(withoutAliases(t.Elem()), t.Len())
	case *types.Map:
		return types.NewMap(withoutAliases(t.Key()), withoutAliases(t.Elem()))
	case *types.Chan:
		return types.NewChan(t.Dir(), withoutAliases(t.Elem()))
	default:
		return t
	}
}
