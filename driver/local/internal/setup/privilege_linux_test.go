package setup

import (
	"testing"
	_ "unsafe" // for a variable of the runtime's

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// iscgo is how the runtime knows that there may be threads of C: by it alone where what calls C is not cgo.
//
//go:linkname iscgo runtime.iscgo
var iscgo bool

// Without cgo there may be threads of C, too, by which process 1 is not to be ended.
func TestThreadsOfCWithoutCgo(t *testing.T) {
	was := iscgo
	iscgo = true
	kept, err := dropOthers()
	iscgo = was
	require.NoError(t, err)
	assert.True(t, kept)
}
