package registry

import (
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSignatureText(t *testing.T) {
	const here = "github.com/sandboxfn/sbx/registry."
	for _, test := range []struct {
		typ  reflect.Type
		want string
	}{
		{reflect.TypeFor[int](), "int"},
		{reflect.TypeFor[map[[2]string][]*any](), "map[[2]string][]*any"},
		{reflect.TypeFor[celsius](), here + "celsius=float64"},
		{reflect.TypeFor[time.Duration](), "time.Duration=int64"},
		{reflect.TypeFor[struct {
			T time.Time
			B big.Float
			A netip.Addr
			S shape
		}](), "struct{T time.Time; B math/big.Float; A net/netip.Addr=binary; S " + here + "shape=interface}"},
		{reflect.TypeFor[tree](), here + "tree=struct{Value int; Children []*" + here + "tree; ByName map[string]" + here + "tree}"},
		{reflect.TypeFor[outer](), here + "outer=struct{embedded inner2 " + here + "inner2=struct{X []string}; embedded hidden " +
			here + "hidden=struct{A int; B *" + here + "inner=struct{A int; B int}}; C string; D - \"msgpack:\\\"-\\\"\"}"},
		{reflect.TypeFor[selfSlice](), here + "selfSlice=[]" + here + "selfSlice"},
		{reflect.TypeFor[options](), here + "options=struct{Callback func()}"},
	} {
		assert.Equal(t, "func("+test.want+")", signatureOf([]reflect.Type{test.typ}, nil))
	}
	text := signatureOf([]reflect.Type{reflect.TypeFor[celsius](), reflect.TypeFor[bool]()}, reflect.TypeFor[celsius]())
	assert.Equal(t, "func("+here+"celsius=float64, bool) "+here+"celsius", text)
	assert.Equal(t, "ae54", fingerprintOf(text)[:4], "the fingerprint must not change from build to build")
}

func TestSignatureTellsTypesApart(t *testing.T) {
	type first struct{ A int }
	local := func() reflect.Type {
		type first struct{ B int }
		return reflect.TypeFor[first]()
	}
	seen := map[string]reflect.Type{}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[struct {
			A int
			B string
		}](),
		reflect.TypeFor[struct {
			B string
			A int
		}](),
		reflect.TypeFor[struct {
			A int
			C string
		}](),
		reflect.TypeFor[struct {
			A int64
			B string
		}](),
		reflect.TypeFor[struct {
			A int `msgpack:"a"`
			B string
		}](),
		reflect.TypeFor[struct {
			A int `msgpack:"-"`
			B string
		}](),
		reflect.TypeFor[struct{ Inner inner }](),
		reflect.TypeFor[struct{ inner }](),
		reflect.TypeFor[first](), local(),
		reflect.TypeFor[[]first](), reflect.TypeFor[*first](), reflect.TypeFor[[1]first](), reflect.TypeFor[[2]first](),
		reflect.TypeFor[float64](), reflect.TypeFor[celsius](),
	} {
		text := signatureOf([]reflect.Type{typ}, nil)
		other, ok := seen[text]
		assert.False(t, ok, "%s and %s have the signature %s", typ, other, text)
		seen[text] = typ
	}
	// Two types of one name in one signature.
	text := signatureOf([]reflect.Type{reflect.TypeFor[first](), local(), local()}, nil)
	assert.Contains(t, text, "first#2=struct{B int}, github.com/sandboxfn/sbx/registry.first#2)")
}
