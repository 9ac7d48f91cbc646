package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The end of a worker's file is this mark and the SHA-256 of all that is before the mark, in hexadecimal digits. Systems run
// executables with more at their end than the linker put there.
var sealMark = []byte(strings.Join([]string{"sbx", "sum", "v1", ""}, ":"))

// ErrDamaged says that a file isn't what sbxgen made of it.
var ErrDamaged = errors.New("it is damaged: it isn't as sbxgen wrote it")

// Seal puts the hash of a worker's file at its end.
func Seal(path string) error {
	sum, err := HashFile(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s%s", sealMark, sum)
	return errors.Join(err, file.Close())
}

// checkSeal returns ErrDamaged unless the hash at the end of a worker's file is that of the rest.
func checkSeal(contents []byte) error {
	size := len(contents) - len(sealMark) - hex.EncodedLen(sha256.Size)
	if size < 0 {
		return ErrDamaged
	}
	sum := sha256.Sum256(contents[:size])
	if !bytes.Equal(contents[size:], fmt.Appendf(nil, "%s%x", sealMark, sum)) {
		return ErrDamaged
	}
	return nil
}
