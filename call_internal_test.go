package sbx

import (
	"testing"

	"github.com/sandboxfn/sbx/registry"
	"github.com/stretchr/testify/assert"
)

// What a worker sends as an error and isn't one is no error of the function.
func TestFunctionErrorThatIsNone(t *testing.T) {
	for _, data := range [][]byte{nil, {0xc0}, {0xff}, append(registry.AppendError(nil, ErrClosed), 0)} {
		err := functionError(data)
		var function *FunctionError
		assert.NotErrorAs(t, err, &function)
		var malformed *registry.DataError
		assert.ErrorAs(t, err, &malformed)
	}
}
