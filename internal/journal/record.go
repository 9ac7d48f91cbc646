package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
)

// Key stands for a function, the version of its code and an input.
type Key [16]byte

// KeyOf hashes parts, of which none can be taken for a piece of another.
func KeyOf(parts ...[]byte) Key {
	h := sha256.New()
	for _, part := range parts {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // hashes take everything
		_, _ = h.Write(part)
	}
	return Key(h.Sum(nil)[:len(Key{})])
}

// Record is what came of one input.
type Record struct {
	Key   Key
	Group uint32 // the number of the function, as Journal.Group gave it
	// Index is the input's place in the run that wrote the record.
	Index int
	// Failed says that Data is an error and not a result.
	Failed bool
	// Text is what the error prints, for people; at most maxText of it is kept.
	Text string
	Time time.Time // to the millisecond
	Data []byte
}

// A record is 4 bytes of checksum, 16 of key, 4 of group, 1 of kind, 8 of index, 8 of time, 2 of the text's length, the text, and the data.
const (
	headSize = 4 + len(Key{}) + 4 + 1 + 8 + 8 + 2
	maxText  = 4 << 10
	// MaxData is how long a record's data may be: what bbolt takes, less what stands before it.
	MaxData = 1<<31 - 2 - headSize - maxText
)

const (
	kindResult byte = iota
	kindFailure
)

// castagnoli is the table of the checksums. Package crc32 makes it when it is first used, which takes the time of a start that needs none.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// sum is the checksum of a record, and of the number under which it stands.
func sum(number, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(number, castagnoli()), castagnoli(), value[4:])
}

func (r Record) encode(number []byte) []byte {
	text := r.Text[:min(len(r.Text), maxText)]
	b := make([]byte, 4, headSize+len(text)+len(r.Data))
	b = append(b, r.Key[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Group)
	kind := kindResult
	if r.Failed {
		kind = kindFailure
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Index))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixMilli()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, text...)
	b = append(b, r.Data...)
	binary.BigEndian.PutUint32(b, sum(number, b))
	return b
}

// parse reads a record, of which nothing is kept: values of the database are valid only within a transaction.
func parse(number, value []byte) (Record, error) {
	if len(value) < headSize || binary.BigEndian.Uint32(value) != sum(number, value) {
		return Record{}, fmt.Errorf("record %x: %w", number, ErrDamaged)
	}
	r := Record{Key: Key(value[4:20]), Group: binary.BigEndian.Uint32(value[20:]), Failed: value[24] == kindFailure}
	r.Index = int(binary.BigEndian.Uint64(value[25:]))
	r.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(value[33:])))
	rest := value[headSize:]
	size := int(binary.BigEndian.Uint16(value[41:]))
	if size > len(rest) {
		return Record{}, fmt.Errorf("record %x: %w", number, ErrDamaged)
	}
	r.Text, r.Data = strings.ToValidUTF8(string(rest[:size]), "\uFFFD"), slices.Clone(rest[size:])
	return r, nil
}
