// Package registry names a function, its signature and its codec, identically in the program that calls it and in the
// worker that runs it.
//
// Its audience is generated code, and the packages sbx and worker. sbxgen writes the calls of [Function], [Error] and
// [ErrorType]; authors of applications only ever write [Type], for a concrete type that travels inside an interface.
//
// # Identity
//
// A function is known by its code pointer together with its [reflect.Type], never by the name that the runtime gives
// it: instantiations of a generic function share that name, and inlining changes a closure's. On the wire it goes by
// the name that it was registered under; its [Entry.Fingerprint] tells whether both sides mean the same types by it.
//
// # Values
//
// A [Codec] is compiled once per type. What it writes is MessagePack: structs are arrays of their fields in order
// (both sides have the same type, so names would be ballast), a value in an interface is [type name, value]. Values
// keep what Go programs rely on: the type of map keys, NaN and infinities, nil versus empty, a time's zone, the
// precision of math/big numbers. What can't be kept is refused, with the path to it: channels and functions,
// unexported fields, cycles. Two pointers to one value arrive as pointers to two values.
//
// A type says how it travels by a pair of methods, declared on itself: MarshalMsgpack and UnmarshalMsgpack, or
// MarshalBinary and UnmarshalBinary, or MarshalText and UnmarshalText; the first complete pair in this order is used.
// Methods that an embedded field has too don't count, since they would drop the other fields; such a struct travels
// field by field.
//
// # Interfaces
//
// A value in an interface, in a field of type any or in a result that is an interface, travels with the name of its
// type. Both sides must know what type the name means; they are one program, so one call of [Type] from init, which runs
// on both, tells both. These types need no registration:
//
//   - bool, string, the integers but uintptr, the floating-point and the complex numbers, time.Time and time.Duration
//   - []any, []bool, []byte, []string, []int, []int64, []float32, []float64
//   - map[string]any, map[string]bool, map[string]string, map[string]int, map[string]float64
//
// Every other type does, named or not, and exactly as the interface holds it: a pointer to a registered type, a slice of
// it and a type defined from it are types of their own. A value of a type that isn't registered is refused where it is
// sent, with a *[ValueError]; its name is refused where it arrives, with a *[DataError].
//
// # Errors
//
// An error travels as the tree of all that it wraps, be it what a function returned ([AppendError], [DecodeError]) or in a
// field of type error. It prints as it did. [errors.Is] finds the variables that were registered with [Error], and
// [errors.As] values of the types that were registered with [ErrorType], complete with the errors in their fields; a
// field holds the very variable or value where it can. Everything else is a [RemoteError]: text, with the type's name.
//
// These need no registration: the variables of bufio, context, errors, io, io/fs, os and strconv, *fs.PathError,
// *os.LinkError, *os.SyscallError, *strconv.NumError, *time.ParseError, and syscall.Errno, whose number is kept on the same
// system only.
//
// # Bytes
//
// Encoding goes through the primitives of github.com/vmihailenco/msgpack/v5. Decoding does not: its integers wrap
// around silently and its lengths are believed before they are checked. Here each length that arrives is first held
// against the bytes that remain, after what the values around it still need. So what a header makes the decoder
// allocate in advance is at most 16 times the bytes that must follow it, however the headers are nested, and memory in
// total is linear in the input; the factor is the type's own (an empty map is one byte on the wire and about 50 in
// memory).
package registry
