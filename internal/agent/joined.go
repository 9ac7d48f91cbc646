package agent

import (
	"encoding/binary"
	"io"
)

// What yamux's frames begin with: a version, a type, two bytes of flags, the stream, and a length or another number.
const (
	MuxHeader = 12
	MuxData   = 0 // the type of those that have a body, of that length
)

// Joined is stream, where yamux's headers go together with the bodies that they are of: yamux writes them one by one, and below it may be what makes a
// message of each write. It is for one writer, as yamux is.
func Joined(stream io.ReadWriteCloser) io.ReadWriteCloser { return &joined{ReadWriteCloser: stream} }

type joined struct {
	io.ReadWriteCloser
	frame []byte // a header that waits for its body
}

func (j *joined) Write(p []byte) (int, error) {
	switch {
	case len(j.frame) > 0:
		j.frame = append(j.frame, p...)
		_, err := j.ReadWriteCloser.Write(j.frame)
		j.frame = j.frame[:0]
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case len(p) == MuxHeader && p[1] == MuxData && binary.BigEndian.Uint32(p[8:]) > 0:
		j.frame = append(j.frame, p...)
		return len(p), nil
	}
	return j.ReadWriteCloser.Write(p)
}
