package registry

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// typeName names a type by its package's path. Types that differ have different names, but for types which are
// declared inside functions.
func typeName(t reflect.Type) string {
	if t.Name() != "" {
		if t.PkgPath() == "" {
			return t.Name()
		}
		return t.PkgPath() + "." + t.Name()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return "*" + typeName(t.Elem())
	case reflect.Slice:
		return "[]" + typeName(t.Elem())
	case reflect.Array:
		return "[" + strconv.Itoa(t.Len()) + "]" + typeName(t.Elem())
	case reflect.Map:
		return "map[" + typeName(t.Key()) + "]" + typeName(t.Elem())
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return "any"
		}
	}
	return t.String()
}

func signatureOf(params []reflect.Type, result reflect.Type) string {
	r := renderer{labels: map[reflect.Type]string{}, uses: map[string]int{}}
	r.WriteString("func(")
	for i, t := range params {
		if i > 0 {
			r.WriteString(", ")
		}
		r.render(t)
	}
	r.WriteString(")")
	if result != nil {
		r.WriteString(" ")
		r.render(result)
	}
	return r.String()
}

func fingerprintOf(signature string) string {
	sum := sha256.Sum256([]byte(signature))
	return fmt.Sprintf("%x", sum[:16])
}

// A renderer writes types canonically: a named type with its definition, "m.Celsius=float64", where it is met first,
// and by its name alone from then on, which is also how recursion ends.
type renderer struct {
	strings.Builder
	labels map[reflect.Type]string // how a named type that was met is called
	uses   map[string]int          // how many types have the name; more than one if they are declared in functions
}

func (r *renderer) render(t reflect.Type) {
	if t.Name() == "" || t.PkgPath() == "" {
		r.definition(t)
		return
	}
	if label, ok := r.labels[t]; ok {
		r.WriteString(label)
		return
	}
	label := typeName(t)
	r.uses[label]++
	if n := r.uses[label]; n > 1 {
		label += "#" + strconv.Itoa(n)
	}
	r.labels[t] = label
	r.WriteString(label)

	if _, ok := leaves[t]; ok {
		return
	}
	r.WriteString("=")
	if form := formOf(t); form != nil {
		r.WriteString(form.name)
		return
	}
	r.definition(t)
}

func (r *renderer) definition(t reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer:
		r.WriteString("*")
		r.render(t.Elem())
	case reflect.Slice:
		r.WriteString("[]")
		r.render(t.Elem())
	case reflect.Array:
		r.WriteString("[" + strconv.Itoa(t.Len()) + "]")
		r.render(t.Elem())
	case reflect.Map:
		r.WriteString("map[")
		r.render(t.Key())
		r.WriteString("]")
		r.render(t.Elem())
	case reflect.Struct:
		r.fields(t)
	case reflect.Interface, reflect.Chan, reflect.Func:
		if t.PkgPath() == "" { // error, or one without a name
			r.WriteString(typeName(t))
		} else {
			r.WriteString(t.Kind().String())
		}
	default:
		r.WriteString(t.Kind().String())
	}
}

func (r *renderer) fields(t reflect.Type) {
	r.WriteString("struct{")
	separator := ""
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Name == "_" {
			continue
		}
		r.WriteString(separator)
		separator = "; "
		if field.Anonymous {
			r.WriteString("embedded ")
		}
		r.WriteString(field.Name)
		r.WriteString(" ")
		if left(field) {
			r.WriteString("-") // its type doesn't matter to the wire
		} else {
			r.render(field.Type)
		}
		if field.Tag != "" {
			r.WriteString(" " + strconv.Quote(string(field.Tag)))
		}
	}
	r.WriteString("}")
}
