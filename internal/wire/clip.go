package wire

import (
	"fmt"
	"strings"
)

// Clip cuts text to at most limit bytes of valid UTF-8 and says so where it did.
func Clip(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit] + fmt.Sprintf("… (%d bytes more)", len(text)-limit)
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

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
	}
	return fmt.Sprint(p)
}
