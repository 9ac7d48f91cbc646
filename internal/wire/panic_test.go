package wire

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

type panickingStringer struct{}

func (panickingStringer) String() string { panic("again") }

// linked may hold itself, which fmt does not follow.
type linked struct{ next *linked }

func TestPanicText(t *testing.T) {
	circle := &linked{}
	circle.next = circle
	for want, p := range map[string]any{
		"runtime.Goexit was called": nil,
		"text":                      "text",
		"an error":                  errors.New("an error"),
		"1s":                        time.Second,
		"NaN":                       math.NaN(),
		"&{[1 two]}":                &struct{ Values []any }{[]any{1, "two"}},
		"map[a:<nil>]":              map[string]error{"a": nil},
		"{1s {}}":                   struct{ A, B any }{time.Second, struct{}{}},
		"<nil>":                     (*linked)(nil),
		"(a wire.panickingStringer, which panicked when it was printed)": panickingStringer{},
	} {
		assert.Equal(t, want, PanicText(p))
	}
	assert.Contains(t, PanicText(circle), "&{0x")
}

type ownMap map[string]any

// With fmt alone the first ones overflow the stack, which ends the process, and the last one never ends.
func TestPanicTextOfWhatHasNoEnd(t *testing.T) {
	self := ownMap{}
	self["self"] = self
	slice := []any{nil}
	slice[0] = slice
	var doubled any
	for range 50 {
		doubled = []any{doubled, doubled}
	}
	const why = ", which is too large to be printed, or holds itself)"
	assert.Equal(t, "(a wire.ownMap"+why, PanicText(self))
	assert.Equal(t, "(a *wire.ownMap"+why, PanicText(&self))
	assert.Equal(t, "(a []interface {}"+why, PanicText(slice))
	assert.Equal(t, "(a struct { field interface {} }"+why, PanicText(struct{ field any }{slice}))
	assert.Equal(t, "(a []interface {}"+why, PanicText(doubled))
	assert.Equal(t, "(a []uint8"+why, PanicText(make([]byte, 100<<10)))
}
