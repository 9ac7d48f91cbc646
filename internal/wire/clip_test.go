package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestClip(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"12345678":               "12345678",
		"123456789":              "12345678… (1 bytes more)",
		"1234567é":               "1234567\uFFFD… (1 bytes more)",
		"\xff":                   "\uFFFD",
		strings.Repeat("x", 100): "xxxxxxxx… (92 bytes more)",
	} {
		assert.Equal(t, want, Clip(text, 8))
	}
}
