package codegen

import (
	"cmp"
	"fmt"
	"go/token"
	"path/filepath"
	"slices"
)

// Code names a kind of diagnostic. A code keeps its meaning for good and is never given to another.
type Code string

// The codes. Each has its section in docs/diagnostics.md.
const (
	Broken        Code = "SBX001" // the package can't be loaded or type-checked
	FuncLiteral   Code = "SBX002" // a function literal is wrapped
	Unsendable    Code = "SBX003" // a type can't be sent to a sandbox
	MethodWrapped Code = "SBX004" // a method is wrapped
	NotDeclared   Code = "SBX005" // a function that is only known at run time is wrapped
	NilWrapped    Code = "SBX006" // nil is wrapped
	TypeParameter Code = "SBX007" // a type parameter of the surrounding code takes part
	LocalType     Code = "SBX008" // a type declared inside a function takes part
	NotCalled     Code = "SBX009" // a wrapping method is used as a value
	InTheWay      Code = "SBX010" // a file that sbxgen didn't write has the name of one that it must write
	SortsLast     Code = "SBX011" // a file's name sorts after every name that the diverting file can have
	OpenedInInit  Code = "SBX012" // a session is opened by an init function or a package variable

	VariableOfMain    Code = "SBX013" // a function reads a package variable that only main's side of the program writes
	NothingRegistered Code = "SBX014" // an interface takes part, and no type that implements it is registered
	BadRegistration   Code = "SBX015" // a type is registered of which no value can be sent inside an interface
)

// Warning reports whether a finding is a warning: files are generated all the same.
func (c Code) Warning() bool { return c == VariableOfMain || c == NothingRegistered }

// A Diagnostic says what is wrong, where, and what to do.
type Diagnostic struct {
	Code Code
	// Pos is NoPos where the finding is about a file or a program as a whole.
	Pos token.Pos
	// Position has an absolute file name, or none if the finding is about no file.
	Position token.Position
	Message  string
}

// Format is the diagnostic in one line, "file:line:col: SBX001: message", with the file's name relative to dir. Before the
// message of a warning is the word.
func (d Diagnostic) Format(dir string) string {
	text := fmt.Sprintf("%s: %s", d.Code, d.Message)
	if d.Code.Warning() {
		text = fmt.Sprintf("%s: warning: %s", d.Code, d.Message)
	}
	if d.Position.Filename == "" {
		return text
	}
	position := d.Position
	if rel, err := filepath.Rel(dir, position.Filename); err == nil {
		position.Filename = rel
	}
	return position.String() + ": " + text
}

// tidy sorts by position. It drops doubles, since a file is type-checked once more for the tests of its package, and what
// the type checker says at a place for which there is a finding of our own.
func tidy(diagnostics []Diagnostic) []Diagnostic {
	slices.SortStableFunc(diagnostics, func(a, b Diagnostic) int {
		return cmp.Or(
			comparePlaces(a, b),
			cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Message, b.Message),
		)
	})
	diagnostics = slices.CompactFunc(diagnostics, same)
	var kept []Diagnostic
	for i, d := range diagnostics {
		explained := d.Code == Broken && slices.ContainsFunc(diagnostics[i:], func(other Diagnostic) bool {
			return other.Code != Broken && comparePlaces(d, other) == 0
		})
		if !explained {
			kept = append(kept, d)
		}
	}
	return kept
}

func comparePlaces(a, b Diagnostic) int { return comparePositions(a.Position, b.Position) }

func comparePositions(a, b token.Position) int {
	return cmp.Or(
		cmp.Compare(a.Filename, b.Filename),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
	)
}

func same(a, b Diagnostic) bool {
	return comparePlaces(a, b) == 0 && a.Code == b.Code && a.Message == b.Message
}
