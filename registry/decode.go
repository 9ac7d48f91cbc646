package registry

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
)

// The codes of MessagePack, https://github.com/msgpack/msgpack/blob/master/spec.md.
const (
	codePosFixMax   = 0x7f
	codeFixMap      = 0x80
	codeFixArray    = 0x90
	codeFixStr      = 0xa0
	codeFixStrMax   = 0xbf
	codeNil         = 0xc0
	codeFalse       = 0xc2
	codeTrue        = 0xc3
	codeBin8        = 0xc4
	codeBin16       = 0xc5
	codeBin32       = 0xc6
	codeFloat32     = 0xca
	codeFloat64     = 0xcb
	codeUint8       = 0xcc
	codeUint16      = 0xcd
	codeUint32      = 0xce
	codeUint64      = 0xcf
	codeInt8        = 0xd0
	codeInt16       = 0xd1
	codeInt32       = 0xd2
	codeInt64       = 0xd3
	codeStr8        = 0xd9
	codeStr16       = 0xda
	codeStr32       = 0xdb
	codeArray16     = 0xdc
	codeArray32     = 0xdd
	codeMap16       = 0xde
	codeMap32       = 0xdf
	codeNegFixFirst = 0xe0
)

// A decoder reads bytes that nobody vouches for.
type decoder struct {
	data []byte
	off  int
	// claimed is the number of bytes that the values which are still to come need at least, because a length that was
	// accepted announced them. A length is held against what is left without them; else headers nested in each other
	// could each be granted the whole rest, and together allocate its square.
	claimed int
	depth   int
	// owned says that nobody else uses data, so that long values may be parts of it.
	owned bool
	zones int // how many times a time zone was looked for on disk
	// inState gives the errors in what is read, if that is the state of an error.
	inState *childReader
}

// value reads a value that is all of the data.
func (d *decoder) value(c *Codec, v reflect.Value) error {
	if err := d.claim(c.min, 1, "a value"); err != nil {
		return err
	}
	d.claimed = 0
	if err := c.decode(d, addressOf(v)); err != nil {
		return err
	}
	return d.end()
}

func (d *decoder) fail(format string, args ...any) error {
	return &DataError{Offset: d.off, Reason: fmt.Sprintf(format, args...)}
}

// free is the number of bytes that nobody has claimed.
func (d *decoder) free() int { return len(d.data) - d.off - d.claimed }

// claim reserves size bytes for each of n values to come, or says that they can't all be there. The reader of each
// value takes its size off claimed before it reads.
func (d *decoder) claim(size, n int, what string) error {
	if free := max(d.free(), 0); uint64(size)*uint64(n) > uint64(free) {
		return d.fail("%s of %d needs %d bytes or more, and %d remain", what, n, uint64(size)*uint64(n), free)
	}
	d.claimed += size * n
	return nil
}

// end makes sure that nothing follows.
func (d *decoder) end() error {
	if d.off < len(d.data) {
		return d.fail("%d bytes follow the end of the value", len(d.data)-d.off)
	}
	return nil
}

func (d *decoder) enter() error {
	if d.depth >= maxDepth {
		return d.fail("values nested more than %d levels deep", maxDepth)
	}
	d.depth++
	return nil
}

func (d *decoder) leave() { d.depth-- }

// next reads n bytes. They are part of the input.
func (d *decoder) next(n int) ([]byte, error) {
	if n > len(d.data)-d.off {
		return nil, d.fail("it ends early: %d bytes are needed, and %d remain", n, len(d.data)-d.off)
	}
	from := d.off
	d.off += n
	return d.data[from:d.off:d.off], nil
}

func (d *decoder) code() (byte, error) {
	if d.off >= len(d.data) {
		return 0, d.fail("it ends early")
	}
	d.off++
	return d.data[d.off-1], nil
}

// isNil reads a nil if one is next.
func (d *decoder) isNil() bool {
	if d.off < len(d.data) && d.data[d.off] == codeNil {
		d.off++
		return true
	}
	return false
}

// unexpected is the error about the code that was read last.
func (d *decoder) unexpected(code byte, wanted string) error {
	d.off--
	return d.fail("code 0x%02x where %s is expected", code, wanted)
}

// number reads the big-endian bytes of a number or length.
func (d *decoder) number(size int) (uint64, error) {
	b, err := d.next(size)
	if err != nil {
		return 0, err
	}
	switch size {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	default:
		return binary.BigEndian.Uint64(b), nil
	}
}

// integer reads an integer of any width and sign: its two's complement and whether it is negative.
func (d *decoder) integer() (bits uint64, negative bool, err error) {
	code, err := d.code()
	if err != nil {
		return 0, false, err
	}
	switch {
	case code <= codePosFixMax:
		return uint64(code), false, nil
	case code >= codeNegFixFirst:
		return uint64(int64(int8(code))), true, nil
	}
	switch code {
	case codeUint8, codeUint16, codeUint32, codeUint64:
		bits, err = d.number(1 << (code - codeUint8))
		return bits, false, err
	case codeInt8, codeInt16, codeInt32, codeInt64:
		size := 1 << (code - codeInt8)
		bits, err = d.number(size)
		shift := 64 - 8*size
		signed := int64(bits<<shift) >> shift
		return uint64(signed), signed < 0, err
	}
	return 0, false, d.unexpected(code, "an integer")
}

func (d *decoder) int64() (int64, error) {
	bits, negative, err := d.integer()
	if err == nil && !negative && bits > math.MaxInt64 {
		return 0, d.fail("%d overflows int64", bits)
	}
	return int64(bits), err
}

func (d *decoder) uint64() (uint64, error) {
	bits, negative, err := d.integer()
	if err == nil && negative {
		return 0, d.fail("%d where no negative number can be", int64(bits))
	}
	return bits, err
}

func (d *decoder) bool() (bool, error) {
	code, err := d.code()
	if err != nil {
		return false, err
	}
	if code != codeFalse && code != codeTrue {
		return false, d.unexpected(code, "a bool")
	}
	return code == codeTrue, nil
}

func (d *decoder) float32() (float32, error) {
	code, err := d.code()
	if err != nil {
		return 0, err
	}
	if code != codeFloat32 {
		return 0, d.unexpected(code, "a float32")
	}
	bits, err := d.number(4)
	return math.Float32frombits(uint32(bits)), err
}

func (d *decoder) float64() (float64, error) {
	code, err := d.code()
	if err != nil {
		return 0, err
	}
	if code != codeFloat64 {
		return 0, d.unexpected(code, "a float64")
	}
	bits, err := d.number(8)
	return math.Float64frombits(bits), err
}

// text reads a string. The bytes are part of the input.
func (d *decoder) text() ([]byte, error) {
	code, err := d.code()
	if err != nil {
		return nil, err
	}
	var n uint64
	switch {
	case code >= codeFixStr && code <= codeFixStrMax:
		n = uint64(code - codeFixStr)
	case code >= codeStr8 && code <= codeStr32:
		n, err = d.number(1 << (code - codeStr8))
	default:
		err = d.unexpected(code, "a string")
	}
	if err != nil {
		return nil, err
	}
	return d.run(n, "a string")
}

// binary reads a run of bytes. They are part of the input.
func (d *decoder) binary() ([]byte, error) {
	code, err := d.code()
	if err != nil {
		return nil, err
	}
	if code < codeBin8 || code > codeBin32 {
		return nil, d.unexpected(code, "bytes")
	}
	n, err := d.number(1 << (code - codeBin8))
	if err != nil {
		return nil, err
	}
	return d.run(n, "bytes")
}

func (d *decoder) run(n uint64, what string) ([]byte, error) {
	if free := max(d.free(), 0); n > uint64(free) {
		return nil, d.fail("%s of length %d, and %d bytes remain", what, n, free)
	}
	return d.next(int(n))
}

// array reads the header of an array whose elements take size bytes or more, and claims these.
func (d *decoder) array(size int) (int, error) {
	return d.header(codeFixArray, codeArray16, size, "an array")
}

// mapping reads the header of a map whose entries take size bytes or more, and claims these.
func (d *decoder) mapping(size int) (int, error) {
	return d.header(codeFixMap, codeMap16, size, "a map")
}

func (d *decoder) header(fix, wide byte, size int, what string) (int, error) {
	code, err := d.code()
	if err != nil {
		return 0, err
	}
	var n uint64
	switch {
	case code&0xf0 == fix:
		n = uint64(code & 0x0f)
	case code == wide || code == wide+1:
		n, err = d.number(2 << (code - wide))
	default:
		err = d.unexpected(code, what)
	}
	if err != nil {
		return 0, err
	}
	if n > uint64(len(d.data)) { // so that n fits an int on every platform; nothing takes less than a byte
		return 0, d.fail("%s of %d, and %d bytes remain", what, n, len(d.data)-d.off)
	}
	return int(n), d.claim(size, int(n), what)
}

// tuple reads the header of an array of exactly n elements, without a claim for them.
func (d *decoder) tuple(n int) error {
	got, err := d.array(0)
	if err == nil && got != n {
		err = d.fail("an array of %d where %d elements are expected", got, n)
	}
	return err
}

// ahead is how many of n elements to make room for before the first of them was read: elements of size bytes in
// memory which take least bytes on the wire or more.
func ahead(n, least int, size uintptr) int {
	const factor = 16
	if size == 0 {
		return n
	}
	granted := uint64(n) * uint64(least) * factor / uint64(size)
	return int(max(1, granted)) // the caller takes the lesser of it and n
}
