package sbx

import (
	"runtime"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/stretchr/testify/assert"
)

func TestPlaceIn(t *testing.T) {
	const caller = functionsCaller + "Call(...)\n\t/registry/call.go:1 +0x1\n"
	for _, c := range []struct{ name, stack, want string }{
		{"none", "", ""},
		{"no frames", "goroutine 1 [running]:\n", ""},
		{"a frame without its place", "goroutine 1 [running]:\nexample.org/a.F()", ""},
		{"nothing but the caller", "goroutine 1 [running]:\n" + caller, ""},
		{"in the function", "goroutine 1 [running]:\nexample.org/a.F(0x1)\n\t/src/a/f.go:7 +0x1f\n" + caller, "f.go:7 (a.F)"},
		{"below it", "goroutine 1 [sleep]:\ntime.Sleep(0x1)\n\t/go/time.go:1 +0x1\nexample.org/a.(*T).wait(...)\n\tC:\\src\\a\\t.go:9\n" +
			"example.org/b.Each(0x1)\n\t/src/b/b.go:2 +0x1\nexample.org/a.F()\n\t/src/a/f.go:7 +0x1f\n" + caller, "t.go:9 (a.(*T).wait)"},
	} {
		assert.Equal(t, c.want, placeIn([]byte(c.stack)), c.name)
	}
}

// The stack is a worker's word, which a hostile one chooses so that it takes much memory here.
func TestPlaceInTakesLittleMemory(t *testing.T) {
	for name, line := range map[string]string{"empty lines": "\n", "short lines": "a\n", "a long line": "a", "of parts": "a/", "of places": "\na\\"} {
		stack := []byte(strings.Repeat(line, wire.MaxCallStack/len(line)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		place := placeIn(stack)
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, len(place), maxPlace+len("…"), name)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*wire.MaxCallStack), name)
	}
}
