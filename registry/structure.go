package registry

import (
	"fmt"
	"reflect"
	"strings"
	"unsafe"
)

// left reports whether a field is left out of what is sent.
func left(field reflect.StructField) bool {
	name, _, _ := strings.Cut(field.Tag.Get("msgpack"), ",")
	return field.Name == "_" || name == "-"
}

// isMessage reports whether a type, or a pointer to it, is a protobuf message.
func isMessage(t reflect.Type) bool {
	method, ok := reflect.PointerTo(t).MethodByName("ProtoReflect")
	if !ok || method.Type.NumIn() != 1 || method.Type.NumOut() != 1 {
		return false
	}
	result := method.Type.Out(0)
	return result.Name() == "Message" && result.PkgPath() == "google.golang.org/protobuf/reflect/protoreflect"
}

// A part is a field of a struct that is sent.
type part struct {
	offset  uintptr
	segment string
	codec   *Codec
}

// structure: an array of the fields in order.
func (c *compiler) structure(codec *Codec) error {
	t := codec.typ
	if isMessage(t) {
		return c.refuse(t, "a protobuf message keeps state that isn't in its fields; take and return []byte, and use proto.Marshal and proto.Unmarshal")
	}
	var parts []part
	var least uint64
	for i := range t.NumField() {
		field := t.Field(i)
		if left(field) {
			continue
		}
		segment := "." + field.Name
		if !field.IsExported() {
			if reason := unexported(t, field); reason != "" {
				c.path = append(c.path, segment)
				return c.refuse(field.Type, reason)
			}
		}
		fieldCodec, err := c.inside(segment, field.Type)
		if err != nil {
			return err
		}
		parts = append(parts, part{field.Offset, segment, fieldCodec})
		codec.fields, codec.of = append(codec.fields, field.Name), append(codec.of, fieldCodec)
		least += uint64(fieldCodec.min)
	}
	claims := limit(least)
	codec.min = limit(headerSize(uint64(len(parts)), 16) + least)
	codec.encode = func(e *encoder, p unsafe.Pointer) error {
		if err := e.wire.EncodeArrayLen(len(parts)); err != nil {
			return err
		}
		for i := range parts {
			if err := parts[i].codec.encode(e, unsafe.Add(p, parts[i].offset)); err != nil {
				return at(err, parts[i].segment)
			}
		}
		return nil
	}
	codec.decode = func(d *decoder, p unsafe.Pointer) error {
		if err := d.tuple(len(parts)); err != nil {
			return err
		}
		if err := d.claim(claims, 1, "a struct"); err != nil {
			return err
		}
		for i := range parts {
			d.claimed -= parts[i].codec.min
			if err := parts[i].codec.decode(d, unsafe.Add(p, parts[i].offset)); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// unexported says why a field that other packages can't see can't be sent. The one that can is an embedded struct: its
// exported fields are the outer struct's.
func unexported(t reflect.Type, field reflect.StructField) string {
	if field.Anonymous && field.Type.Kind() == reflect.Struct && formOf(field.Type) == nil {
		return ""
	}
	owner := t.Name()
	if owner == "" {
		owner = "the struct"
	}
	return fmt.Sprintf(`the field isn't exported, so its value would be lost; export it, or leave it out with the tag `+
		`msgpack:"-", or give %s the methods MarshalBinary and UnmarshalBinary`, owner)
}
