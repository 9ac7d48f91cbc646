package registry

import (
	"fmt"
	"reflect"
	"strings"
)

// A TypeError says that no value of a type can be sent, because of something inside it.
type TypeError struct {
	Root   reflect.Type // the type that was asked for
	Path   string       // where in it the trouble is: "Job.Options.Callback"
	Type   reflect.Type // the type at Path
	Reason string       // why, and what to do
}

func (e *TypeError) Error() string {
	return fmt.Sprintf("%s: %s can't be sent: %s", e.Path, e.Type, e.Reason)
}

// A ValueError says that one particular value can't be sent: it contains itself, an interface in it holds a type that
// isn't registered, its marshaler failed.
type ValueError struct {
	Path   string       // where in the value: `Job.Layers[3].Weights["a"].X`
	Type   reflect.Type // the type at Path; nil if there is none
	Reason string       // why, and what to do
	Err    error        // the marshaler's error, or the *TypeError of the type that an interface holds, if that is the reason
}

func (e *ValueError) Error() string {
	var text strings.Builder
	text.WriteString(e.Path)
	text.WriteString(": ")
	if e.Type != nil {
		text.WriteString(e.Type.String())
		text.WriteString(" ")
	}
	text.WriteString("can't be sent: ")
	text.WriteString(e.Reason)
	if e.Err != nil {
		text.WriteString(": ")
		text.WriteString(e.Err.Error())
	}
	return text.String()
}

func (e *ValueError) Unwrap() error { return e.Err }

// A DataError says that bytes are not the encoding of the expected type.
type DataError struct {
	Offset int    // the position in the bytes
	Reason string // what is wrong there
	Err    error  // the unmarshaler's error, if that is the reason
}

func (e *DataError) Error() string {
	text := fmt.Sprintf("corrupt data at byte %d: %s", e.Offset, e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *DataError) Unwrap() error { return e.Err }

// rootName is what a path starts with.
func rootName(t reflect.Type) string {
	if t.Name() != "" {
		return t.Name()
	}
	return t.String()
}

// The segments of a path that are shown at its two ends when the middle is left out.
const (
	pathHead = 16
	pathTail = 8
)

// joinPath writes a path from its segments, which come innermost first.
func joinPath(root string, segments []string) string {
	var path strings.Builder
	path.WriteString(root)
	for i := range segments {
		if len(segments) > pathHead+pathTail {
			if i == pathHead {
				path.WriteString("…")
			}
			if i >= pathHead && i < len(segments)-pathTail {
				continue
			}
		}
		path.WriteString(segments[len(segments)-1-i])
	}
	return path.String()
}
