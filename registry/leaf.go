package registry

import (
	"fmt"
	"math/big"
	"reflect"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// A leaf is how a type of the standard library travels that needs more care than its own methods or its kind take: a
// time's keep no zone's name, a big.Float's no precision, an error number no system.
type leaf struct {
	min    int
	encode func(*encoder, unsafe.Pointer) error
	decode func(*decoder, unsafe.Pointer) error
}

var leaves = map[reflect.Type]leaf{
	timeType:                     {min: 3, encode: encodeTime, decode: decodeTime},
	reflect.TypeFor[big.Int]():   bigLeaf((*big.Int).GobEncode, (*big.Int).GobDecode, checkInt),
	reflect.TypeFor[big.Rat]():   bigLeaf((*big.Rat).GobEncode, (*big.Rat).GobDecode, checkRat),
	reflect.TypeFor[big.Float](): bigLeaf((*big.Float).GobEncode, (*big.Float).GobDecode, checkFloat),

	reflect.TypeFor[syscall.Errno](): {min: 3, encode: encodeErrno, decode: decodeErrno},
}

var timeType = reflect.TypeFor[time.Time]()

// mostOffset bounds a zone's seconds from UTC. time.FixedZone takes any number, but nobody's clock is 34 years off.
const mostOffset = 1 << 30

// A time is [seconds, nanoseconds] in UTC, else [seconds, nanoseconds, offset, abbreviation, location]; the location
// is empty where the abbreviation and the offset are all that there is to it.
func encodeTime(e *encoder, p unsafe.Pointer) error {
	t := *(*time.Time)(p)
	parts := 5
	if t.Location() == time.UTC {
		parts = 2
	}
	if err := e.wire.EncodeArrayLen(parts); err != nil {
		return err
	}
	if err := e.wire.EncodeInt(t.Unix()); err != nil {
		return err
	}
	if err := e.wire.EncodeInt(int64(t.Nanosecond())); err != nil {
		return err
	}
	if parts == 2 {
		return nil
	}
	abbreviation, offset := t.Zone()
	if offset < -mostOffset || offset > mostOffset {
		return fail(timeType, fmt.Sprintf("its zone is %d seconds from UTC", offset), nil)
	}
	location := t.Location().String()
	if start, end := t.ZoneBounds(); start.IsZero() && end.IsZero() && location == abbreviation {
		location = "" // a time.FixedZone
	}
	if err := e.wire.EncodeInt(int64(offset)); err != nil {
		return err
	}
	if err := e.string(timeType, abbreviation); err != nil {
		return err
	}
	return e.string(timeType, location)
}

func decodeTime(d *decoder, p unsafe.Pointer) error {
	n, err := d.array(1)
	if err != nil {
		return err
	}
	d.claimed -= n
	if n != 2 && n != 5 {
		return d.fail("a time of %d parts", n)
	}
	seconds, err := d.int64()
	if err != nil {
		return err
	}
	nanoseconds, err := d.uint64()
	if err != nil {
		return err
	}
	if nanoseconds >= uint64(time.Second) {
		return d.fail("a time with %d nanoseconds", nanoseconds)
	}
	t := time.Unix(seconds, int64(nanoseconds)).UTC()
	if n == 5 {
		if t, err = decodeZone(d, t); err != nil {
			return err
		}
	}
	*(*time.Time)(p) = t
	return nil
}

func decodeZone(d *decoder, t time.Time) (time.Time, error) {
	offset, err := d.int64()
	if err != nil {
		return t, err
	}
	if offset < -mostOffset || offset > mostOffset {
		return t, d.fail("a time zone %d seconds from UTC", offset)
	}
	abbreviation, err := d.text()
	if err != nil {
		return t, err
	}
	location, err := d.text()
	if err != nil {
		return t, err
	}
	if len(location) > 0 {
		if zone := d.location(string(location)); zone != nil {
			local := t.In(zone)
			if name, seconds := local.Zone(); name == string(abbreviation) && int64(seconds) == offset {
				return local, nil
			}
		}
	}
	// The location isn't known here, or has other rules: the clock still shows what it showed.
	return t.In(time.FixedZone(string(abbreviation), int(offset))), nil
}

// locations caches time zones, which time.LoadLocation doesn't.
var locations sync.Map

// location gives a time zone by name; nil if there is none. A decoder looks on disk only so often.
func (d *decoder) location(name string) *time.Location {
	const mostLookups = 32
	if name == "Local" {
		return time.Local
	}
	if zone, ok := locations.Load(name); ok {
		return zone.(*time.Location)
	}
	if d.zones >= mostLookups {
		return nil
	}
	d.zones++
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil
	}
	locations.Store(name, zone)
	return zone
}

// bigLeaf is the leaf of a number of math/big. Its gob form keeps all that there is to the number, but GobDecode
// believes what it reads, so check looks at it first.
func bigLeaf[T any](encode func(*T) ([]byte, error), decode func(*T, []byte) error, check func([]byte) string) leaf {
	t := reflect.TypeFor[T]()
	return leaf{
		min: 3,
		encode: func(e *encoder, p unsafe.Pointer) error {
			b, err := encode((*T)(p))
			if err != nil {
				return fail(t, "GobEncode failed", err)
			}
			if reason := check(b); reason != "" {
				return fail(t, reason, nil)
			}
			return e.bytes(t, b)
		},
		decode: func(d *decoder, p unsafe.Pointer) error {
			b, err := d.binary()
			if err != nil {
				return err
			}
			if len(b) == 0 {
				return d.fail("a %s of no bytes", t)
			}
			if reason := check(b); reason != "" {
				return d.fail("a %s is malformed: %s", t, reason)
			}
			if err := decode((*T)(p), b); err != nil {
				return &DataError{Offset: d.off, Reason: fmt.Sprintf("a %s is malformed", t), Err: err}
			}
			return nil
		},
	}
}

// A big.Int is [version and sign, absolute value…].
func checkInt(b []byte) string {
	if b[0]&1 != 0 && allZero(b[1:]) {
		return "zero has no sign"
	}
	return ""
}

// A big.Rat is [version and sign, length of the numerator (4), numerator…, denominator…].
func checkRat(b []byte) string {
	const header = 5
	if len(b) < header {
		return "it is too short"
	}
	n := uint64(b[1])<<24 | uint64(b[2])<<16 | uint64(b[3])<<8 | uint64(b[4])
	if n > uint64(len(b)-header) {
		return "its numerator is longer than all of it"
	}
	if b[0]&1 != 0 && allZero(b[header:header+int(n)]) {
		return "zero has no sign"
	}
	return ""
}

// A big.Float is [version, mode (3 bits) accuracy (2) form (2) sign (1), precision (4)], and if it is finite and not
// zero, [exponent (4), mantissa…] with the mantissa's first bit set.
func checkFloat(b []byte) string {
	const header, finiteHeader = 6, 10
	if len(b) < header {
		return "it is too short"
	}
	mode, accuracy, form := big.RoundingMode(b[1]>>5), b[1]>>3&3, b[1]>>1&3
	if mode > big.ToPositiveInf || accuracy > 2 || form > 2 {
		return "its mode, accuracy or form doesn't exist"
	}
	const finite = 1
	if form != finite {
		return ""
	}
	precision := uint64(b[2])<<24 | uint64(b[3])<<16 | uint64(b[4])<<8 | uint64(b[5])
	words := (precision + 63) / 64
	switch mantissa := len(b) - finiteHeader; {
	case mantissa <= 0, uint64(mantissa) > words*8, mantissa%8 != 0:
		return "its mantissa doesn't fit its precision"
	case b[finiteHeader]&0x80 == 0:
		return "its mantissa isn't normalized"
	}
	return ""
}

// The number of a system call's error means what it means on one system only: it is [number, GOOS].
func encodeErrno(e *encoder, p unsafe.Pointer) error {
	if err := e.wire.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := e.wire.EncodeUint(uint64(*(*syscall.Errno)(p))); err != nil {
		return err
	}
	return e.wire.EncodeString(runtime.GOOS)
}

func decodeErrno(d *decoder, p unsafe.Pointer) error {
	if err := d.tuple(2); err != nil {
		return err
	}
	n, err := d.uint64()
	if err != nil {
		return err
	}
	system, err := d.text()
	if err != nil {
		return err
	}
	if string(system) != runtime.GOOS || uint64(syscall.Errno(n)) != n {
		return d.fail("error number %d of %.20q", n, system)
	}
	*(*syscall.Errno)(p) = syscall.Errno(n)
	return nil
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
