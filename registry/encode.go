package registry

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	// maxDepth is how deep pointers, slices, maps and interfaces may nest in a value, in both directions.
	maxDepth = 10_000
	// quietDepth is how deep they nest before cycles are looked for.
	quietDepth = 500
	// maxLength is the greatest length that MessagePack can express.
	maxLength = math.MaxUint32
	// maxEncoded is how many bytes an encoding may have. What is shared in memory is written once for each way that leads to it, so
	// a value of a few pointers could take more than there is.
	maxEncoded = 1 << 30
)

// An encoder holds one value's encoding while it grows. It is the writer under msgpack's Encoder.
type encoder struct {
	buf   []byte
	begin int // where the encoding begins in buf
	most  int // how many bytes it may have, about
	wire  *msgpack.Encoder
	depth int
	path  map[visit]struct{} // what contains the present value; nil while cycles aren't looked for
	// inState collects the errors in what is written, if that is the state of an error.
	inState *[]error
	// sorted says that the entries of maps are sorted by their encoding.
	sorted bool
}

// A visit identifies a pointer, slice or map.
type visit struct {
	address uintptr
	length  int
	typ     reflect.Type
}

var encoders = sync.Pool{New: func() any {
	e := &encoder{}
	e.wire = msgpack.NewEncoder(e)
	return e
}}

// Write appends p; the error is always nil.
func (e *encoder) Write(p []byte) (int, error) {
	e.buf = append(e.buf, p...)
	return len(p), nil
}

// WriteByte appends b; the error is always nil.
func (e *encoder) WriteByte(b byte) error {
	e.buf = append(e.buf, b)
	return nil
}

// errDeep asks for another try with a look at cycles.
var errDeep = errors.New("deep value")

// encodeValue is encode into a new slice, in no order.
func encodeValue(c *Codec, v reflect.Value, most int, inState *[]error) ([]byte, error) {
	return encode(nil, c, v, most, inState, false)
}

// encode appends the encoding of v, about most bytes of it at most. If v is an error whose state is to be written, inState takes
// the errors in it. If sorted is true, the entries of maps are sorted by their encoding.
func encode(dst []byte, c *Codec, v reflect.Value, most int, inState *[]error, sorted bool) ([]byte, error) {
	e := encoders.Get().(*encoder)
	e.buf, e.begin, e.most, e.inState, e.sorted = dst, len(dst), most, inState, sorted
	err := c.encode(e, addressOf(v))
	if err == errDeep {
		// Following the path from the start finds the shortest cycle, and so the shortest message.
		root := visit{v.Addr().Pointer(), 0, reflect.PointerTo(c.typ)}
		e.buf, e.depth, e.path = dst, 0, map[visit]struct{}{root: {}}
		if inState != nil {
			*inState = (*inState)[:0]
		}
		err = c.encode(e, addressOf(v))
	}
	out := e.buf
	e.buf, e.depth, e.path, e.inState = nil, 0, nil, nil
	encoders.Put(e)
	if failed, ok := err.(*failure); ok {
		failed.Path = joinPath(rootName(c.typ), failed.segments)
		return dst, &failed.ValueError
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

// A failure is a ValueError whose path is still being put together, from the inside out.
type failure struct {
	ValueError
	segments []string
}

func fail(t reflect.Type, reason string, err error) error {
	return &failure{ValueError: ValueError{Type: t, Reason: reason, Err: err}}
}

// at adds to a failure where it happened.
func at(err error, segment string) error {
	if failed, ok := err.(*failure); ok {
		failed.segments = append(failed.segments, segment)
	}
	return err
}

// enter begins a pointer, slice, map or interface; leave ends it. address is 0 for an interface, which can't be part
// of a cycle without one of the others.
func (e *encoder) enter(t reflect.Type, address uintptr, length int) error {
	if e.depth >= quietDepth && e.path == nil {
		return errDeep
	}
	if e.depth >= maxDepth {
		return fail(t, fmt.Sprintf("it is nested more than %d levels deep", maxDepth), nil)
	}
	if err := e.bound(t, 0); err != nil {
		return err
	}
	if e.path != nil && address != 0 {
		here := visit{address, length, t}
		if _, ok := e.path[here]; ok {
			return fail(t, "it contains itself; send a form without the cycle", nil)
		}
		e.path[here] = struct{}{}
	}
	e.depth++
	return nil
}

func (e *encoder) leave(t reflect.Type, address uintptr, length int) {
	e.depth--
	if e.path != nil && address != 0 {
		delete(e.path, visit{address, length, t})
	}
}

// bound says that there is no room for so many bytes more.
func (e *encoder) bound(t reflect.Type, more int) error {
	if len(e.buf)-e.begin+more > e.most {
		return fail(t, fmt.Sprintf("with it the whole is too long: more than %d bytes; what is shared in memory is sent each time that something leads to it", e.most), nil)
	}
	return nil
}

func (e *encoder) string(t reflect.Type, s string) error {
	if err := e.bound(t, len(s)); err != nil {
		return err
	}
	if uint64(len(s)) > maxLength {
		return fail(t, "it is longer than 4 GiB", nil)
	}
	return e.wire.EncodeString(s)
}

func (e *encoder) bytes(t reflect.Type, b []byte) error {
	if err := e.bound(t, len(b)); err != nil {
		return err
	}
	if uint64(len(b)) > maxLength {
		return fail(t, "it is longer than 4 GiB", nil)
	}
	if err := e.wire.EncodeBytesLen(len(b)); err != nil {
		return err
	}
	_, err := e.Write(b)
	return err
}

func (e *encoder) arrayLen(t reflect.Type, n int) error {
	if err := e.bound(t, n); err != nil {
		return err
	}
	if uint64(n) > maxLength {
		return fail(t, "it has more than 4294967295 elements", nil)
	}
	return e.wire.EncodeArrayLen(n)
}

func (e *encoder) mapLen(t reflect.Type, n int) error {
	if err := e.bound(t, n); err != nil {
		return err
	}
	if uint64(n) > maxLength {
		return fail(t, "it has more than 4294967295 elements", nil)
	}
	return e.wire.EncodeMapLen(n)
}

// sortEntries sorts the entries of a map, which begin at starts and end where the buffer does.
func (e *encoder) sortEntries(starts []int) {
	if len(starts) < 2 {
		return
	}
	entries := make([][]byte, len(starts))
	all := bytes.Clone(e.buf[starts[0]:])
	for i, start := range starts {
		end := len(e.buf)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		entries[i] = all[start-starts[0] : end-starts[0]]
	}
	slices.SortFunc(entries, bytes.Compare)
	e.buf = e.buf[:starts[0]]
	for _, entry := range entries {
		e.buf = append(e.buf, entry...)
	}
}
