package registry

import (
	"reflect"
	"strconv"
	"unsafe"
)

// The common slices and maps of types without parts are read and written by value, as one would write it for the one
// type: without an address for each element, and without package reflect.

// Both complete their codecs, by the element's type for slices and by the map's type.
var (
	plainSlices = map[reflect.Type]func(*Codec){}
	plainMaps   = map[reflect.Type]func(*Codec){}
)

func init() {
	text := stringAtom(reflect.TypeFor[string]())
	number := signedAtom[int](reflect.TypeFor[int]())
	wide := signedAtom[int64](reflect.TypeFor[int64]())

	plainSlice(text, nil)
	plainSlice(float64Atom, &float64s)
	plainSlice(float32Atom, &float32s)
	plainSlice(wide, nil)
	plainSlice(unsignedAtom[uint64](reflect.TypeFor[uint64]()), nil)
	plainSlice(number, nil)

	plainMap(text, text)
	plainMap(text, number)
	plainMap(text, wide)
	plainMap(text, float64Atom)
	plainMap(text, boolAtom)
	plainMap(number, text)
	plainMap(number, number)
	plainMap(number, float64Atom)
}

// plainSlice adds the slices of a type; all is nil where it has none.
func plainSlice[T any](elem atom[T], all *bulk[T]) {
	plainSlices[reflect.TypeFor[T]()] = func(c *Codec) {
		t, size := c.typ, c.typ.Elem().Size()
		c.encode = func(e *encoder, p unsafe.Pointer) error {
			s := *(*[]T)(p)
			if s == nil {
				return e.wire.EncodeNil()
			}
			if err := e.arrayLen(t, len(s)); err != nil {
				return err
			}
			if all != nil {
				if err := e.bound(t, elem.min*len(s)); err != nil {
					return err
				}
				e.buf = all.append(e.buf, s)
				return nil
			}
			for i, x := range s {
				if err := elem.put(e, x); err != nil {
					return at(err, "["+strconv.Itoa(i)+"]")
				}
			}
			return nil
		}
		c.decode = func(d *decoder, p unsafe.Pointer) error {
			if d.isNil() {
				return nil
			}
			n, err := d.array(elem.min)
			if err != nil {
				return err
			}
			s := make([]T, 0, min(n, ahead(n, elem.min, size)))
			if all != nil { // its elements are larger on the wire than in memory, so there is room for all
				read := all.read(s[:n], d.data[d.off:])
				s = s[:read]
				d.off += elem.min * read
				d.claimed -= elem.min * read
			}
			for range n - len(s) {
				d.claimed -= elem.min
				x, err := elem.get(d)
				if err != nil {
					return err
				}
				s = append(s, x)
			}
			*(*[]T)(p) = s
			return nil
		}
	}
}

func plainMap[K comparable, V any](key atom[K], value atom[V]) {
	plainMaps[reflect.TypeFor[map[K]V]()] = func(c *Codec) {
		t, least, size := c.typ, key.min+value.min, c.typ.Key().Size()+c.typ.Elem().Size()
		c.encode = func(e *encoder, p unsafe.Pointer) error {
			m := *(*map[K]V)(p)
			if m == nil {
				return e.wire.EncodeNil()
			}
			if err := e.mapLen(t, len(m)); err != nil {
				return err
			}
			var starts []int
			for k, x := range m {
				if e.sorted {
					starts = append(starts, len(e.buf))
				}
				if err := key.put(e, k); err != nil {
					return at(err, "[key]")
				}
				if err := value.put(e, x); err != nil {
					return at(err, "["+keyText(reflect.ValueOf(k))+"]")
				}
			}
			e.sortEntries(starts)
			return nil
		}
		c.decode = func(d *decoder, p unsafe.Pointer) error {
			if d.isNil() {
				return nil
			}
			n, err := d.mapping(least)
			if err != nil {
				return err
			}
			m := make(map[K]V, min(n, ahead(n, least, size)))
			for range n {
				d.claimed -= key.min
				k, err := key.get(d)
				if err != nil {
					return err
				}
				d.claimed -= value.min
				if m[k], err = value.get(d); err != nil {
					return err
				}
			}
			if len(m) != n {
				return d.fail("a map of %d with only %d different keys", n, len(m))
			}
			*(*map[K]V)(p) = m
			return nil
		}
	}
}
