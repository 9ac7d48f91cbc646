package registry

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type (
	options  struct{ Callback func() }
	withFunc struct{ Options *options }
	secret   struct {
		Name string
		key  string
	}
	hiddenText struct{ A int }
	badEmbed   struct{ hiddenText }
	circle     struct{ Radius float64 }
	square     struct{ Side float64 }
	shape      interface{ Area() float64 }
	holder     struct {
		Shape shape
		Any   map[string][]any
	}
)

func (circle) Area() float64                     { return 0 }
func (square) Area() float64                     { return 0 }
func (hiddenText) MarshalText() ([]byte, error)  { return nil, nil }
func (*hiddenText) UnmarshalText(b []byte) error { return nil }
func (s secret) String() string                  { return s.key }

func TestTypesThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		typ  reflect.Type
		want string // the beginning
	}{
		{reflect.TypeFor[withFunc](), "withFunc.Options.Callback: func() can't be sent: "},
		{reflect.TypeFor[[]map[string]chan int](), "[]map[string]chan int[][]: chan int can't be sent: "},
		{reflect.TypeFor[struct{ P unsafe.Pointer }](), "struct { P unsafe.Pointer }.P: unsafe.Pointer can't be sent: "},
		{reflect.TypeFor[uintptr](), "uintptr: uintptr can't be sent: an address"},
		{reflect.TypeFor[struct{ sync.Mutex }](), "struct { sync.Mutex }.Mutex: sync.Mutex can't be sent: it guards"},
		{reflect.TypeFor[struct{ N atomic.Int64 }](), "struct { N atomic.Int64 }.N: atomic.Int64 can't be sent: it guards"},
		{reflect.TypeFor[*secret](), "*registry.secret.key: string can't be sent: the field isn't exported"},
		{reflect.TypeFor[badEmbed](), "badEmbed.hiddenText: registry.hiddenText can't be sent: the field isn't exported"},
		{reflect.TypeFor[struct{ Err net.Error }](), "struct { Err net.Error }.Err: net.Error can't be sent: an error may arrive as text"},
		{reflect.TypeFor[map[error]int](), "map[error]int[key]: error can't be sent: an error as a map key"},
		{reflect.TypeFor[struct{ Ctx context.Context }](), "struct { Ctx context.Context }.Ctx: context.Context can't be sent: a context"},
		{reflect.TypeFor[map[*int]bool](), "map[*int]bool[key]: *int can't be sent: a pointer as a map key"},
		{reflect.TypeFor[map[struct{ P *int }]bool](), "map[struct { P *int }]bool[key]: struct { P *int } can't be sent: a pointer"},
		{reflect.TypeFor[onlyOut](), "onlyOut: registry.onlyOut can't be sent: it has MarshalText but no UnmarshalText"},
		{reflect.TypeFor[onlyIn](), "onlyIn: registry.onlyIn can't be sent: it has UnmarshalBinary but no MarshalBinary"},
		{reflect.TypeFor[[1 << 40]struct{}](), "[1099511627776]struct {}: "},
	} {
		c, err := CodecOf(test.typ)
		assert.Nil(t, c)
		var typ *TypeError
		require.ErrorAs(t, err, &typ)
		assert.Equal(t, test.typ, typ.Root)
		assert.True(t, strings.HasPrefix(err.Error(), test.want), "got %s", err)
	}
}

// What failed to compile must not leave unfinished codecs behind.
func TestRefusalLeavesNoCodec(t *testing.T) {
	type part struct{ Next *part }
	type whole struct {
		Part part
		Bad  chan int
	}
	_, err := CodecOf(reflect.TypeFor[whole]())
	require.Error(t, err)
	assert.Equal(t, part{&part{}}, crossed(t, part{&part{}}))
}

func TestValuesThatAreRefused(t *testing.T) {
	Type[circle]()
	Type[withFunc]()
	loop := &tree{Value: 1}
	loop.Children = []*tree{{}, loop}
	var ring selfPointer
	ring = &ring
	slice := selfSlice{nil}
	slice[0] = slice
	mapping := selfMap{}
	mapping["a"] = mapping
	list := []any{1, nil}
	list[1] = list
	for _, test := range []struct {
		value any
		want  string
	}{
		{loop, "*registry.tree.Children[1]: *registry.tree can't be sent: it contains itself"},
		{*loop, "tree.Children[1].Children: []*registry.tree can't be sent: it contains itself"},
		{ring, "selfPointer: registry.selfPointer can't be sent: it contains itself"},
		{slice, "selfSlice[0]: registry.selfSlice can't be sent: it contains itself"},
		{mapping, `selfMap["a"]: registry.selfMap can't be sent: it contains itself`},
		{list, "[]interface {}[1].([]interface {}): []interface {} can't be sent: it contains itself"},
		{holder{Shape: square{}}, "holder.Shape: registry.square can't be sent: an interface holds it, and it isn't registered; " +
			"register it from its package, github.com/sandboxfn/sbx/registry, in init: with Type of github.com/sandboxfn/sbx/registry"},
		{[]any{url.Values{}}, "[]interface {}[0]: url.Values can't be sent: an interface holds it, and it isn't registered; " +
			"call registry.Type[url.Values]() of github.com/sandboxfn/sbx/registry from init"},
		{holder{Any: map[string][]any{"a": {1, &circle{}}}}, `holder.Any["a"][1]: *registry.circle can't be sent: `},
		{[]any{withFunc{}}, "[]interface {}[0].(registry.withFunc): registry.withFunc can't be sent: no value of this type can: "},
		{map[keyed]any{{B: "x"}: struct{}{}}, "map[registry.keyed]interface {}[a registry.keyed]: struct {} can't be sent: "},
		{[]any{make(chan int)}, "[]interface {}[0].(chan int): chan int can't be sent: no value of this type can: chan int: " +
			"chan int can't be sent: a channel belongs"},
		{[]any{options{}}, "[]interface {}[0].(registry.options): registry.options can't be sent: no value of this type can: "},
		{map[string]any{strings.Repeat("k", 99): make(chan int)}, `map[string]interface {}["` + strings.Repeat("k", 40) + `"…].(chan int): chan int can't`},
	} {
		c, err := CodecOf(reflect.TypeOf(test.value))
		require.NoError(t, err)
		out, err := c.Append([]byte("kept"), reflect.ValueOf(test.value))
		var value *ValueError
		require.ErrorAs(t, err, &value)
		assert.True(t, strings.HasPrefix(err.Error(), test.want), "got %s", err)
		assert.Equal(t, "kept", string(out))
	}
	in := holder{Shape: circle{2}, Any: map[string][]any{"a": {circle{1}, nil}}}
	assert.Equal(t, in, crossed(t, in))
	assert.Panics(t, func() { Type[shape]() })
	func() {
		type circle struct{ Other int }
		assert.NotPanics(t, func() { Type[*circle]() })
	}()
}

func TestHowToRegister(t *testing.T) {
	const here = "github.com/sandboxfn/sbx/registry"
	for _, test := range []struct {
		typ  reflect.Type
		want string // where it can be named; empty is everywhere
	}{
		{reflect.TypeFor[int16](), ""},
		{reflect.TypeFor[[]int16](), ""},
		{reflect.TypeFor[*Codec](), ""},
		{reflect.TypeFor[map[string][2]url.Values](), ""},
		{reflect.TypeFor[struct{ A url.Values }](), ""},
		{reflect.TypeFor[circle](), here},
		{reflect.TypeFor[map[string][]*circle](), here},
		{reflect.TypeFor[map[circle]string](), here},
		{reflect.TypeFor[struct{ C circle }](), here},
		{reflect.TypeFor[struct{ c int }](), here},
		{reflect.TypeFor[Generic[int]](), here},
	} {
		text := howToRegister(test.typ)
		assert.Equal(t, test.want, onlyNamedIn(test.typ), test.typ)
		assert.Contains(t, text, here)
		assert.Equal(t, test.want == "", strings.Contains(text, "registry.Type["+test.typ.String()+"]()"), text)
	}
}

type Generic[T any] struct{ Value T }

func TestPlainTypesNeedNoRegistration(t *testing.T) {
	for _, in := range []any{
		true, "s", []byte("b"), 1, int8(1), int16(1), int32(1), int64(1), uint(1), uint8(1), uint16(1), uint32(1), uint64(1),
		float32(1), 1.5, complex64(1i), 1i, time.Unix(1, 0).UTC(), time.Second, []any{1, "a"}, map[string]any{"a": []int{1}},
		[]bool{true}, []string{"a"}, []int{1}, []int64{1}, []float32{1}, []float64{1}, map[string]bool{"a": true},
		map[string]string{"a": "b"}, map[string]int{"a": 1}, map[string]float64{"a": 1},
	} {
		assert.Equal(t, in, crossed(t, in))
	}
}

func TestTypesOfOneNameCollide(t *testing.T) {
	{
		type local struct{ A int }
		Type[local]()
	}
	type local struct{ B int }
	assert.Panics(t, func() { Type[local]() })
}

func TestDepth(t *testing.T) {
	var list *tree
	for i := range 5000 {
		list = &tree{Value: i, Children: []*tree{list}}
	}
	out := crossed(t, list)
	depth := 0
	for ; out != nil; out = out.Children[0] {
		depth++
	}
	assert.Equal(t, 5000, depth)

	for range 5000 {
		list = &tree{Children: []*tree{list}}
	}
	c := codecFor[*tree](t)
	_, err := c.Append(nil, reflect.ValueOf(list))
	var value *ValueError
	require.ErrorAs(t, err, &value)
	assert.Contains(t, err.Error(), fmt.Sprintf("more than %d levels", maxDepth))
	assert.Less(t, len(err.Error()), 1000, "a path must stay readable")

	// Nests deeper than any honest value.
	data := make([]byte, 200_000)
	for i := range data {
		data[i] = codeFixArray | 1
	}
	var data2 *DataError
	err = codecFor[selfSlice](t).Decode(data, reflect.ValueOf(new(selfSlice)).Elem())
	require.ErrorAs(t, err, &data2)
	assert.Contains(t, err.Error(), "levels deep")
	err = codecFor[selfPointer](t).Decode(data, reflect.ValueOf(new(selfPointer)).Elem())
	require.ErrorAs(t, err, &data2)
}
