package codegen

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/registry"
)

// What is said of interfaces at build time must be what happens when the program runs: the types with methods that need
// no registration are these.
func TestUnregisteredTypesTravel(t *testing.T) {
	codec, err := registry.CodecOf(reflect.TypeFor[any]())
	require.NoError(t, err)
	for _, value := range []any{time.Now(), time.Second} {
		_, err := codec.Append(nil, reflect.ValueOf(&value).Elem())
		assert.NoError(t, err)
		assert.Contains(t, unregistered, methodNames(reflect.TypeOf(value)))
	}
	assert.Len(t, unregistered, 2)
	var other any = failure(fmt.Errorf("no"))
	_, err = codec.Append(nil, reflect.ValueOf(&other).Elem())
	assert.Error(t, err)
}

func TestMethodsWithin(t *testing.T) {
	time := methodNames(reflect.TypeFor[time.Time]())
	assert.True(t, Methods{"String"}.within(time))
	assert.True(t, Methods{"Add", "Before", "Zone"}.within(time))
	assert.False(t, Methods{"Area"}.within(time))
	assert.False(t, Methods{"String", "Area"}.within(time))
}
