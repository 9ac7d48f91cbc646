package registry

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"unsafe"
)

// minErrorNode is the least number of bytes that a node of a tree of errors takes.
const minErrorNode = 8

// DecodeError reads what [AppendError] wrote of an error, which is not nil. The error is a *[DataError]. An error type
// whose state can't be read is no reason to fail: that error is text then. data may be reused afterwards.
func DecodeError(data []byte) (*RemoteError, error) {
	d := decoder{data: data}
	remote, err := d.errorTree()
	if err == nil {
		err = d.end()
	}
	if err != nil {
		return nil, err
	}
	return remote, nil
}

func (d *decoder) errorTree() (*RemoteError, error) {
	r := errorReader{d: d}
	return r.node(0)
}

// An errorReader reads one tree of errors. It refuses what an [errorTree] doesn't write: that the same error is at
// several places of the tree, above all, since a walk through it could then take forever.
type errorReader struct {
	d     *decoder
	nodes int
}

func (r *errorReader) node(depth int) (*RemoteError, error) {
	d := r.d
	if r.nodes++; r.nodes > maxErrorNodes || depth > maxErrorDepth {
		return nil, d.fail("a tree of more than %d errors or %d levels", maxErrorNodes, maxErrorDepth)
	}
	if err := d.tuple(7); err != nil {
		return nil, err
	}
	e := &RemoteError{}
	variable := ""
	for _, s := range []*string{&e.Text, &e.Type, &variable} {
		text, err := d.text()
		if err != nil {
			return nil, err
		}
		*s = string(text)
	}
	a, err := d.uint64()
	if err != nil {
		return nil, err
	}
	e.answers = answers(a) & allAnswers
	children, err := r.children(depth)
	if err != nil {
		return nil, err
	}
	last, err := r.causes(e, children)
	if err != nil {
		return nil, err
	}
	e.variable, _ = sentinelNamed(variable)
	if !d.isNil() {
		if err := r.state(e, children, last); err != nil {
			return nil, err
		}
	}
	if e.value == nil && e.variable != nil {
		e.value, e.whole = e.variable, true
	}
	return e, nil
}

func (r *errorReader) children(depth int) ([]*RemoteError, error) {
	n, err := r.d.array(minErrorNode)
	if err != nil || n == 0 {
		return nil, err
	}
	children := make([]*RemoteError, n) // a pointer is hardly larger than the least node
	for i := range children {
		r.d.claimed -= minErrorNode
		if children[i], err = r.node(depth + 1); err != nil {
			return nil, err
		}
	}
	return children, nil
}

// causes reads which of the children e wraps, and returns the last of their places; -1 if there is none.
func (r *errorReader) causes(e *RemoteError, children []*RemoteError) (last int, err error) {
	n, err := r.d.array(1)
	if err != nil {
		return 0, err
	}
	last = -1
	wraps := make([]bool, len(children))
	for range n {
		r.d.claimed--
		place, err := r.d.uint64()
		if err != nil {
			return 0, err
		}
		if place >= uint64(len(children)) || wraps[place] {
			return 0, r.d.fail("cause %d is not there, or there twice", place)
		}
		wraps[place] = true
		last = max(last, int(place))
		e.causes = append(e.causes, children[place])
	}
	return last, nil
}

// state reads the state of e and makes its value, unless that type isn't known here or the bytes are none of its.
func (r *errorReader) state(e *RemoteError, children []*RemoteError, lastCause int) error {
	d := r.d
	if err := d.tuple(2); err != nil {
		return err
	}
	name, err := d.text()
	if err != nil {
		return err
	}
	data, err := d.binary()
	if err != nil {
		return err
	}
	kind := errorTypeNamed(name)
	if kind == nil || kind.codec() == nil {
		return nil
	}
	inner := decoder{data: data, zones: d.zones, inState: &childReader{children: children}}
	v := reflect.New(kind.typ).Elem()
	err = inner.value(kind.codec(), v)
	d.zones = inner.zones
	if err != nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	if e.variable != nil {
		if !kind.holds(e.variable, data, children) {
			e.value = v.Interface().(error)
		}
		return nil
	}
	e.value = v.Interface().(error)
	wrapped := 0
	for _, cause := range unwrap(e.value) {
		if cause != nil {
			wrapped++
		}
	}
	e.whole = !kind.partial() && lastCause < inner.inState.read && wrapped == len(e.causes)
	return nil
}

// holds reports whether the state of an error is what arrived. It may say no where there is a map or a pointer.
func (t *errorType) holds(err error, data []byte, children []*RemoteError) bool {
	if reflect.TypeOf(err) != t.typ {
		return false
	}
	inState := []error{}
	state, failed := encodeValue(t.codec(), addressable(reflect.ValueOf(err)), len(data), &inState)
	return failed == nil && bytes.Equal(state, data) && len(inState) <= len(children) &&
		slices.EqualFunc(inState, children[:len(inState)], func(a error, b *RemoteError) bool { return sameError(a, b) })
}

// A childReader gives the errors that a state holds, each once.
type childReader struct {
	children []*RemoteError
	read     int
}

// errorField completes the codec of an interface that is error: the place of an error in a state; a tree elsewhere.
func errorField(c *Codec) {
	t := c.typ
	c.encode = func(e *encoder, p unsafe.Pointer) error {
		v := valueAt(t, p)
		if v.IsNil() {
			return e.wire.EncodeNil()
		}
		err := v.Interface().(error)
		if e.inState == nil {
			e.errorTree(err)
			return nil
		}
		if len(*e.inState) == maxErrorNodes {
			return fail(t, fmt.Sprintf("an error holds more than %d others", maxErrorNodes), nil)
		}
		*e.inState = append(*e.inState, err)
		return e.wire.EncodeBool(true)
	}
	c.decode = func(d *decoder, p unsafe.Pointer) error {
		v := valueAt(t, p)
		if d.isNil() {
			return nil
		}
		if d.inState == nil {
			remote, err := d.errorTree()
			if err == nil {
				v.Set(reflect.ValueOf(remote.plain()))
			}
			return err
		}
		if there, err := d.bool(); err != nil || !there {
			return d.fail("no error where one is expected")
		}
		s := d.inState
		if s.read == len(s.children) {
			return d.fail("an error that isn't there")
		}
		v.Set(reflect.ValueOf(s.children[s.read].plain()))
		s.read++
		return nil
	}
}

// isErrorField reports whether a type is error, or an interface defined from it.
func isErrorField(t reflect.Type) bool {
	return t.Kind() == reflect.Interface && t.NumMethod() == 1 && t.Implements(errorInterface)
}
