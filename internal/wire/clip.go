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
