package registry

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Bounds of a tree of errors on the wire. What is beyond them is cut off.
const (
	maxErrorDepth = 64
	maxErrorNodes = 1024
	maxErrorText  = 64 << 10  // of one text
	maxErrorBytes = 512 << 10 // of all texts and states
)

// AppendError appends the encoding of an error and of all that it wraps to dst, for [DecodeError]. It always succeeds:
// what goes wrong in an error's own methods is part of the text, and what is beyond 64 levels, 1024 errors or 512 KiB is
// cut off. A [RemoteError] is sent on as what it was in the first place.
func AppendError(dst []byte, err error) []byte {
	e := encoders.Get().(*encoder)
	e.buf = dst
	e.errorTree(err)
	out := e.buf
	e.buf = nil
	encoders.Put(e)
	return out
}

// An errorTree is a tree of errors while it is written. It counts what the tree may still take.
//
// A node is [text, type, variable, answers, children, causes, state]. Its children are the errors that its state holds, in the
// order of the fields, and then all others that it wraps; causes says which of them those are that it wraps. So an error
// that both a field holds and Unwrap returns is sent once: twice would double with each link of a chain. State is nil or
// [type name, bytes]; these are bytes of their own, so that a state that can't be read harms nothing else.
type errorTree struct {
	e            *encoder
	nodes, bytes int
}

// errorTree writes nil, or the tree of err. Nothing fails, since the encoder is the writer.
func (e *encoder) errorTree(err error) {
	if err == nil {
		_ = e.wire.EncodeNil()
		return
	}
	t := errorTree{e: e, bytes: maxErrorBytes}
	t.node(err, 0)
}

func (t *errorTree) array(n int)     { _ = t.e.wire.EncodeArrayLen(n) }
func (t *errorTree) string(s string) { _ = t.e.wire.EncodeString(s) }

func (t *errorTree) node(err error, depth int) {
	t.nodes++
	goType, held, itself := fmt.Sprintf("%T", err), err, err
	answers := answersOf(err)
	remote := asRemote(err)
	if remote != nil {
		goType, held, itself, answers = remote.Type, remote.value, remote.variable, remote.answers
	}
	variable, _ := sentinelName(itself)

	t.array(7)
	t.string(t.clip(errorText(err), remote != nil))
	t.string(t.clip(goType, remote != nil))
	t.string(variable)
	_ = t.e.wire.EncodeUint(uint64(answers))
	name, state, inState := t.state(held)
	children, causes := t.family(inState, unwrap(err))
	sent := t.children(children, depth)
	t.causes(causes, sent)
	if name == "" || sent < len(inState) {
		_ = t.e.wire.EncodeNil()
		return
	}
	t.array(2)
	t.string(name)
	_ = t.e.wire.EncodeBytes(state)
}

// clip cuts text to what a text may have and to what is left of the tree's bytes. One that is sent on was cut already.
func (t *errorTree) clip(text string, sentOn bool) string {
	if limit := min(maxErrorText, max(t.bytes, 0)); !sentOn || len(text) > limit+maxClipNote {
		text = clip(text, limit)
	}
	t.bytes -= len(text)
	return text
}

// maxClipNote bounds what clip adds to a text.
const maxClipNote = len("… (18446744073709551615 bytes more)")

// clip cuts text to at most limit bytes, between characters, and says so where it did.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + fmt.Sprintf("… (%d bytes more)", len(text)-limit)
}

// state encodes the state of an error whose type is registered. The errors in it are not part of the bytes. There is no
// name if the state can't be sent. A nil pointer is text only: what it says of itself is there, and a caller who finds an
// error by its type relies on that it is one.
func (t *errorTree) state(err error) (name string, state []byte, inState []error) {
	kind := errorTypeOf(reflect.TypeOf(err))
	if kind == nil || kind.codec() == nil {
		return "", nil, nil
	}
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return "", nil, nil
	}
	inState = make([]error, 0, 1)
	state, failed := encodeValue(kind.codec(), addressable(v), t.bytes, &inState)
	if failed != nil || len(state) > t.bytes {
		return "", nil, nil
	}
	t.bytes -= len(state)
	return kind.name, state, inState
}

// family puts together the errors below a node: those in its state, and what else it wraps. The causes are the places of
// those that it wraps.
func (t *errorTree) family(inState, wrapped []error) (children []error, causes []int) {
	children = inState
	wraps := make([]bool, len(inState))
	next := 0
	for _, cause := range wrapped {
		if cause == nil {
			continue
		}
		if len(causes) == maxErrorNodes {
			break
		}
		place := -1
		for range inState { // usually the next one is it
			if !wraps[next] && sameError(inState[next], cause) {
				place, wraps[next] = next, true
			}
			next = (next + 1) % len(inState)
			if place >= 0 {
				break
			}
		}
		if place < 0 {
			place = len(children)
			children = append(children, cause)
		}
		causes = append(causes, place)
	}
	return children, causes
}

// sameError reports whether two errors can't be told apart.
func sameError(a, b error) bool {
	if remote := asRemote(b); remote != nil {
		b = remote.plain() // as a field holds it
	}
	switch {
	case reflect.TypeOf(a) != reflect.TypeOf(b):
		return false
	case canCompare(a):
		return a == b
	default:
		return reflect.DeepEqual(a, b) //nolint:govet // not what they mean is asked, but what they are
	}
}

// children writes as many of the children as the tree may have, and returns how many.
func (t *errorTree) children(children []error, depth int) int {
	if len(children) == 0 {
		t.array(0)
		return 0
	}
	header := len(t.e.buf)
	t.e.buf = append(t.e.buf, codeArray16, 0, 0) // completed when the number is known
	sent := 0
	for depth < maxErrorDepth && sent < len(children) && t.nodes < maxErrorNodes {
		t.node(children[sent], depth+1)
		sent++
	}
	binary.BigEndian.PutUint16(t.e.buf[header+1:], uint16(sent))
	return sent
}

// causes writes the places of the causes among the children that were sent.
func (t *errorTree) causes(places []int, sent int) {
	n := 0
	for _, place := range places {
		if place < sent {
			places[n] = place
			n++
		}
	}
	t.array(n)
	for _, place := range places[:n] {
		_ = t.e.wire.EncodeInt(int64(place))
	}
}

// errorText is err.Error(), or what that panicked with: a nil pointer in an error interface must not end the worker.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("(Error() of %T panicked: %s)", err, panicText(p))
		}
	}()
	return err.Error()
}

// panicText prints what a method panicked with, whose own methods may panic. What is made of other values is told by its type: fmt never
// ends where a map or a slice holds itself.
func panicText(p any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("a %T", p)
		}
	}()
	switch p := p.(type) {
	case error:
		return p.Error()
	case fmt.Stringer:
		return p.String()
	}
	switch reflect.TypeOf(p).Kind() {
	case reflect.Array, reflect.Map, reflect.Pointer, reflect.Slice, reflect.Struct:
		return fmt.Sprintf("a %T", p)
	}
	return fmt.Sprint(p)
}

// unwrap returns what an error wraps; nothing if it panics when it is asked.
func unwrap(err error) (causes []error) {
	defer func() {
		if recover() != nil {
			causes = nil
		}
	}()
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		return []error{wrapper.Unwrap()}
	case interface{ Unwrap() []error }:
		return wrapper.Unwrap()
	}
	return nil
}
