package codegen

import (
	"fmt"
	"go/types"
	"math"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
)

// A TypeProblem is a place in a type that keeps the type from being sent to a sandbox.
type TypeProblem struct {
	Path   string // "Job.Options.Callback"; the type itself if it is the trouble
	Type   string // the type at Path, as text
	Reason string // why, and what to do
}

// String is "Job.Options.Callback: func() can't be sent: …".
func (p TypeProblem) String() string {
	return fmt.Sprintf("%s can't be sent: %s", typeAt(p.Path, p.Type), p.Reason)
}

// typeAt is "path: type", or the type alone if there is no more to the path, which has a type's name without its package.
func typeAt(path, typ string) string {
	if path == typ || strings.HasSuffix(typ, "."+path) {
		return typ
	}
	return path + ": " + typ
}

// CheckType returns everything in t that can't be sent, by the rules of package registry's codec. What an interface
// holds is only known, and checked, when the program runs. The qualifier writes the names of packages; nil means their
// paths.
func CheckType(t types.Type, qualifier types.Qualifier) []TypeProblem {
	problems, _ := checkType(t, qualifier)
	return problems
}

// checkType also returns the interfaces in t whose values need registration.
func checkType(t types.Type, qualifier types.Qualifier) ([]TypeProblem, []HeldInterface) {
	c := &typeCheck{qualifier: qualifier}
	c.check(rootName(t, qualifier), t)
	return c.problems, c.interfaces
}

// rootName is what a path starts with: the type's own name, without its package.
func rootName(t types.Type, qualifier types.Qualifier) string {
	if named, ok := types.Unalias(t).(*types.Named); ok && named.TypeArgs().Len() == 0 {
		return named.Obj().Name()
	}
	return types.TypeString(t, qualifier)
}

type typeCheck struct {
	qualifier  types.Qualifier
	visited    typeutil.Map // named types; a recursive type ends here
	owner      types.Type   // the struct whose field is checked; nil outside of one
	problems   []TypeProblem
	interfaces []HeldInterface
}

// refuse reports t. The remedy is for whoever can change the struct that t is in.
func (c *typeCheck) refuse(path string, t types.Type, why, remedy string) {
	if c.owner != nil && !c.isOwn(c.owner) {
		remedy = fmt.Sprintf("if %s isn't yours, send a type of your own instead; else %s", c.text(c.owner), remedy)
	}
	c.problems = append(c.problems, TypeProblem{Path: path, Type: c.text(t), Reason: why + "; " + remedy})
}

// isOwn reports whether a type is declared in the package that the qualifier is of, or is a literal.
func (c *typeCheck) isOwn(t types.Type) bool {
	named, ok := types.Unalias(t).(*types.Named)
	return !ok || named.Obj().Pkg() == nil || c.qualifier != nil && c.qualifier(named.Obj().Pkg()) == ""
}

func (c *typeCheck) text(t types.Type) string { return types.TypeString(t, c.qualifier) }

func (c *typeCheck) check(path string, t types.Type) {
	t = types.Unalias(t)
	if named, ok := t.(*types.Named); ok {
		if pkg := named.Obj().Pkg(); pkg != nil && (pkg.Path() == "sync" || pkg.Path() == "sync/atomic") {
			c.refuse(path, t, "it guards memory of one process", "leave the field out with the tag `msgpack:\"-\"`")
			return
		}
		if pkg := named.Obj().Pkg(); pkg != nil && pkg.Path() == "syscall" && named.Obj().Name() == "Errno" {
			return // the codec knows it
		}
		if c.visited.Set(named, true) != nil {
			return
		}
	}
	if why, remedy := memoryOnly(t); why != "" {
		c.refuse(path, t, why, remedy)
		return
	}
	if named, ok := t.(*types.Named); ok && !types.IsInterface(t) && c.marshals(path, named) {
		return
	}
	switch u := t.Underlying().(type) {
	case *types.Pointer:
		c.check(path, u.Elem())
	case *types.Slice:
		c.check(path+"[]", u.Elem())
	case *types.Array:
		c.check(path+"[]", u.Elem())
	case *types.Map:
		if pointer := pointerIn(u.Key()); pointer != nil {
			c.refuse(path+"[key]", u.Key(), "as a map key a pointer or an error is found by its address, which changes on the way", "use what it points to")
		} else {
			c.check(path+"[key]", u.Key())
		}
		c.check(path+"[]", u.Elem())
	case *types.Struct:
		if isMessage(t) {
			c.refuse(path, t, "a protobuf message keeps state that isn't in its fields", "take and return []byte, and use proto.Marshal and proto.Unmarshal")
			return
		}
		c.fields(path, t, u)
	case *types.Interface:
		c.iface(path, t, u)
	}
}

// memoryOnly says why values of a type mean nothing in another process, whatever methods it has, and what to do; both are empty if they do.
func memoryOnly(t types.Type) (why, remedy string) {
	switch u := t.Underlying().(type) {
	case *types.Basic:
		switch u.Kind() {
		case types.Uintptr, types.UnsafePointer:
			return "an address means nothing in another process", "use an integer type for a number"
		}
	case *types.Chan:
		return "a channel connects goroutines of one process", "send the values themselves"
	case *types.Signature:
		return "code isn't sent", "send what the function needs to choose it, or leave it out with the tag `msgpack:\"-\"`"
	case *types.Array:
		if u.Len() > math.MaxUint32 {
			return "it has more elements than an array on the wire can have", "use a slice"
		}
	}
	return "", ""
}

func (c *typeCheck) iface(path string, t types.Type, u *types.Interface) {
	named, _ := t.(*types.Named)
	switch {
	case isError(u) && u.NumMethods() > 1:
		c.refuse(path, t, "an error may arrive as text, which has no other methods", "use the type error")
	case named != nil && named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == "context" && named.Obj().Name() == "Context":
		c.refuse(path, t, "the sandbox makes a context of its own, the function's first parameter", "send the values that it carries")
	case !isError(u) && u.NumMethods() > 0:
		held := HeldInterface{Path: path, Type: c.text(t), OwnField: c.owner != nil && c.isOwn(c.owner)}
		for method := range u.Methods() {
			held.Methods = append(held.Methods, method.Name())
		}
		c.interfaces = append(c.interfaces, held)
	}
}

func (c *typeCheck) fields(path string, t types.Type, u *types.Struct) {
	outer := c.owner
	if _, ok := t.(*types.Named); ok || outer == nil { // a literal belongs to the struct around it
		c.owner = t
	}
	for i := range u.NumFields() {
		field := u.Field(i)
		if leftOut(u, i) {
			continue
		}
		at := path + "." + field.Name()
		if !field.Exported() && !isPlainEmbedded(field) {
			c.refuse(at, field.Type(), "the field is unexported, so it would be lost", c.toExport(t))
			continue
		}
		c.check(at, field.Type())
	}
	c.owner = outer
}

// toExport says what to do about an unexported field of t. A struct literal can't have methods.
func (c *typeCheck) toExport(t types.Type) string {
	if _, ok := t.(*types.Named); !ok {
		return "export it, or leave it out with the tag `msgpack:\"-\"`"
	}
	return fmt.Sprintf("export it, leave it out with the tag `msgpack:\"-\"`, or give %s the methods MarshalBinary and UnmarshalBinary", c.text(t))
}

// isMessage reports whether a type, or a pointer to it, is a protobuf message.
func isMessage(t types.Type) bool {
	object, _, _ := types.LookupFieldOrMethod(t, true, nil, "ProtoReflect")
	method, ok := object.(*types.Func)
	if !ok || method.Signature().Params().Len() != 0 || method.Signature().Results().Len() != 1 {
		return false
	}
	result, ok := types.Unalias(method.Signature().Results().At(0).Type()).(*types.Named)
	return ok && result.Obj().Name() == "Message" && result.Obj().Pkg().Path() == "google.golang.org/protobuf/reflect/protoreflect"
}

// leftOut reports whether a field isn't sent.
func leftOut(u *types.Struct, i int) bool {
	name, _, _ := strings.Cut(reflect.StructTag(u.Tag(i)).Get("msgpack"), ",")
	return u.Field(i).Name() == "_" || name == "-"
}

// isPlainEmbedded reports whether a field is an embedded struct that is sent field by field; its exported fields are
// the outer struct's, even if its own name is not exported.
func isPlainEmbedded(field *types.Var) bool {
	named, ok := types.Unalias(field.Type()).(*types.Named)
	if !field.Embedded() || !ok || wholePair(named) {
		return false
	}
	_, ok = named.Underlying().(*types.Struct)
	return ok
}

// pointerIn returns the pointer type, or the error, that keeps a type from being the key of a map, or nil.
func pointerIn(key types.Type) types.Type {
	key = types.Unalias(key)
	if named, ok := key.(*types.Named); ok && wholePair(named) {
		return nil
	}
	switch u := key.Underlying().(type) {
	case *types.Pointer:
		return key
	case *types.Interface:
		if isError(u) {
			return key
		}
	case *types.Array:
		return pointerIn(u.Elem())
	case *types.Struct:
		for i := range u.NumFields() {
			if pointer := pointerIn(u.Field(i).Type()); pointer != nil && !leftOut(u, i) {
				return pointer
			}
		}
	}
	return nil
}

// marshalers are the pairs of methods that a type can have to send itself.
var marshalers = [][2]string{
	{"MarshalMsgpack", "UnmarshalMsgpack"},
	{"MarshalBinary", "UnmarshalBinary"},
	{"MarshalText", "UnmarshalText"},
}

// marshals reports whether the type's own methods decide how it is sent. One method of a pair without the other is a
// problem, unless another pair is whole.
func (c *typeCheck) marshals(path string, named *types.Named) bool {
	if wholePair(named) {
		return true
	}
	for _, pair := range marshalers {
		has, lacks := pair[0], pair[1]
		if hasUnmarshal(named, pair[1]) {
			has, lacks = lacks, has
		} else if !hasMarshal(named, pair[0]) {
			continue
		}
		outer := c.owner
		c.owner = named // who could give it the method
		c.refuse(path, named, fmt.Sprintf("it has %s but no %s of its own, so the other side couldn't read it", has, lacks), "give it both")
		c.owner = outer
		return true
	}
	return false
}

// wholePair reports whether the type has both methods of a pair.
func wholePair(named *types.Named) bool {
	if _, ok := named.Underlying().(*types.Interface); ok {
		return false
	}
	return slices.ContainsFunc(marshalers, func(pair [2]string) bool {
		return hasMarshal(named, pair[0]) && hasUnmarshal(named, pair[1])
	})
}

func hasMarshal(named *types.Named, name string) bool {
	return hasMethod(named, name, nil, []types.Type{bytesType, errorType})
}

func hasUnmarshal(named *types.Named, name string) bool {
	return hasMethod(named, name, []types.Type{bytesType}, []types.Type{errorType})
}

var (
	bytesType = types.NewSlice(types.Typ[types.Byte])
	errorType = types.Universe.Lookup("error").Type()
)

// hasMethod reports whether the type, or a pointer to it, declares the method. If something that it embeds has the method,
// it doesn't count: the method is from there and would drop the other fields, or package registry has to think so, which
// can't tell the two apart.
func hasMethod(named *types.Named, name string, params, results []types.Type) bool {
	if !finds(named, name, params, results) {
		return false
	}
	if u, ok := named.Underlying().(*types.Struct); ok {
		for field := range u.Fields() {
			if field.Embedded() && finds(field.Type(), name, params, results) {
				return false
			}
		}
	}
	return true
}

// finds reports whether the type, or a pointer to it, has the method.
func finds(t types.Type, name string, params, results []types.Type) bool {
	object, _, _ := types.LookupFieldOrMethod(t, true, nil, name)
	method, ok := object.(*types.Func)
	return ok && sameTypes(method.Signature().Params(), params) && sameTypes(method.Signature().Results(), results)
}

func sameTypes(tuple *types.Tuple, want []types.Type) bool {
	if tuple.Len() != len(want) {
		return false
	}
	for i, t := range want {
		if !types.Identical(tuple.At(i).Type(), t) {
			return false
		}
	}
	return true
}
