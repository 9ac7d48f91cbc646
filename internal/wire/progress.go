package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNote is the most bytes that a note of a function's progress may have.
const MaxNote = 1 << 10

// Note returns a note as it may be shown on a terminal: at most [MaxNote] bytes in one line, without anything that is not printed, such as
// control characters, and those that change the direction of text. Its memory is its own.
func Note(text string) string {
	if len(text) > MaxNote {
		end := MaxNote
		for end > MaxNote-utf8.UTFMax && !utf8.RuneStart(text[end]) { // no half of a character
			end--
		}
		text = text[:end]
	}
	var note strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		switch {
		case r == utf8.RuneError && size <= 1: // no character at all
			r = '?'
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = '?'
		}
		if note.Len()+utf8.RuneLen(r) <= MaxNote {
			note.WriteRune(r)
		}
	}
	return note.String()
}
