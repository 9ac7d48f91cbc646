package codegen

import (
	"context"
	"math/big"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// sample has a field of each kind of type that can or can't be sent. Its fields are checked from this file's source by
// CheckType and from memory by package registry, and both must say the same.
type sample struct {
	Bool       bool
	Int        int
	Uint8      uint8
	Float      float32
	Complex    complex128
	String     string
	Bytes      []byte
	Array      [3]plain
	Map        map[int]*plain
	Pointer    **plain
	Struct     plain
	Any        any
	Stringer   interface{ String() string }
	Time       time.Time
	Duration   time.Duration
	BigInt     big.Int
	BigRat     *big.Rat
	BigFloat   *big.Float
	Tree       tree
	Mutual     mutualA
	Skips      skips
	Text       text
	Msgpack    inMsgpack
	Binary     inBinary
	Embeds     embeds
	EmbedsTime embedsTime
	TextKey    map[text]int
	StructKey  map[plain]int
	AnyKey     map[any]int
	Generic    box[map[string]int]
	Alias      aliased
	Strange    strangeMarshal
	Error      error
	NamedError failure
	Errors     map[string][]*error
	Errno      syscall.Errno
	OwnMethods ownMethods
	OwnKey     map[ownMethods]int

	Uintptr   uintptr
	Unsafe    unsafe.Pointer
	Chan      chan int
	Func      func()
	NamedFunc callback
	ErrorLike interface {
		error
		Code() int
	}
	ErrorKey     map[[1]error]int
	Context      context.Context
	Mutex        sync.Mutex
	Once         *sync.Once
	Atomic       atomic.Int64
	Unexported   unexported
	Deep         map[string][]box[unexported]
	Half         halfText
	HalfOther    halfBinary
	PointerKey   map[*plain]int
	PointerInKey map[[2]struct{ P *int }]int
	FuncInKey    map[struct{ C chan int }]int
	EmbedsPtr    embedsPointer
	EmbedsHidden embedsNumber
	EmbedsHalf   embedsText
	Timer        time.Timer
	BadTree      badTree
	TextUintptr  textUintptr
	TextFunc     textFunc
	OwnAndHidden ownAndHidden
	LongArray    [1 << 33]struct{}
}

//nolint:unused // the types are the sample: nothing uses their fields
type (
	plain struct {
		N int
		S string
	}
	tree struct {
		Left, Right *tree
		Values      []tree
	}
	mutualA struct{ B []mutualB }
	mutualB struct{ A map[string]mutualA }
	skips   struct {
		Kept  int
		Chan  chan int `msgpack:"-"`
		quiet func()   `msgpack:"-,omitempty"`
		_     sync.Mutex
	}
	embeds     struct{ plain }
	embedsTime struct {
		time.Time
		Name string
	}
	box[T any]     struct{ Value T }
	aliased        = box[time.Time]
	strangeMarshal struct{ N int }
	inMsgpack      struct{ n int }
	inBinary       struct{ n int }
	text           struct{ n int }
	number         int
	failure        error

	// Its methods are its own, but package registry can't tell.
	ownMethods struct {
		time.Time
		Name string
	}

	callback     func(int)
	textUintptr  uintptr
	textFunc     func()
	ownAndHidden struct {
		time.Time
		hidden int
	}
	unexported    struct{ n int }
	halfText      struct{ N int }
	halfBinary    int
	embedsPointer struct{ *plain }
	embedsNumber  struct{ number }
	embedsText    struct{ text }
	badTree       struct {
		Next *badTree
		Bad  chan badTree
	}
)

func (text) MarshalText() ([]byte, error)             { return nil, nil }
func (textUintptr) MarshalText() ([]byte, error)      { return nil, nil }
func (*textUintptr) UnmarshalText([]byte) error       { return nil }
func (textFunc) MarshalText() ([]byte, error)         { return nil, nil }
func (*textFunc) UnmarshalText([]byte) error          { return nil }
func (ownMethods) MarshalText() ([]byte, error)       { return nil, nil }
func (*ownMethods) UnmarshalText([]byte) error        { return nil }
func (ownAndHidden) MarshalText() ([]byte, error)     { return nil, nil }
func (*ownAndHidden) UnmarshalText([]byte) error      { return nil }
func (*text) UnmarshalText([]byte) error              { return nil }
func (*inMsgpack) MarshalMsgpack() ([]byte, error)    { return nil, nil }
func (*inMsgpack) UnmarshalMsgpack([]byte) error      { return nil }
func (inBinary) MarshalBinary() ([]byte, error)       { return nil, nil }
func (*inBinary) UnmarshalBinary([]byte) error        { return nil }
func (inBinary) MarshalText() ([]byte, error)         { return nil, nil }
func (strangeMarshal) MarshalText(int) (string, bool) { return "", false }
func (strangeMarshal) UnmarshalBinary(string) error   { return nil }
func (halfText) MarshalText() ([]byte, error)         { return nil, nil }
func (*halfBinary) UnmarshalBinary([]byte) error      { return nil }
