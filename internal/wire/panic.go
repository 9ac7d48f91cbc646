package wire

import (
	"fmt"
	"reflect"
)

// PanicText prints what user code panicked with, whose own methods are user code too; nil is a call of runtime.Goexit.
func PanicText(p any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(a %T, which panicked when it was printed)", p)
		}
	}()
	switch p := p.(type) {
	case nil:
		return "runtime.Goexit was called"
	case error:
		return p.Error()
	case fmt.Stringer:
		return p.String()
	case fmt.Formatter:
		return fmt.Sprint(p)
	}
	v := reflect.ValueOf(p)
	if v.Kind() == reflect.Pointer {
		v = v.Elem() // which fmt follows here, and nowhere else
	}
	if left := maxPrinted; !printable(v, &left) {
		return fmt.Sprintf("(a %T, which is too large to be printed, or holds itself)", p)
	}
	return fmt.Sprint(p)
}

// maxPrinted is of how many values one may be made that is printed: fmt never ends where a map or a slice holds itself.
const maxPrinted = 64 << 10

// printable reports whether what fmt goes through of a value is bounded. It takes what it sees from left.
func printable(v reflect.Value, left *int) bool {
	if *left--; *left < 0 {
		return false
	}
	if printsItself(v) {
		return true
	}
	switch v.Kind() {
	case reflect.Interface:
		return printable(v.Elem(), left)
	case reflect.Array, reflect.Slice:
		for i := range v.Len() {
			if !printable(v.Index(i), left) {
				return false
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if !printable(entries.Key(), left) || !printable(entries.Value(), left) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !printable(v.Field(i), left) {
				return false
			}
		}
	}
	return true
}

func printsItself(v reflect.Value) bool {
	if !v.IsValid() || !v.CanInterface() {
		return false
	}
	switch v.Interface().(type) {
	case error, fmt.Formatter, fmt.Stringer:
		return true
	}
	return false
}
