package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"sync"
)

// sentinels holds the error variables that were registered.
var sentinels = struct {
	sync.RWMutex
	byName map[string]error
	names  map[error]string
}{
	byName: map[string]error{},
	names:  map[error]string{},
}

// standardSentinels are the standard library's error variables which every program knows without registration: those of
// packages that are linked anyway. Generated code registers those of other packages where a program uses them.
var standardSentinels = sync.OnceValue(func() map[string]error {
	return map[string]error{
		"bufio.ErrAdvanceTooFar":     bufio.ErrAdvanceTooFar,
		"bufio.ErrBadReadCount":      bufio.ErrBadReadCount,
		"bufio.ErrBufferFull":        bufio.ErrBufferFull,
		"bufio.ErrFinalToken":        bufio.ErrFinalToken,
		"bufio.ErrInvalidUnreadByte": bufio.ErrInvalidUnreadByte,
		"bufio.ErrInvalidUnreadRune": bufio.ErrInvalidUnreadRune,
		"bufio.ErrNegativeAdvance":   bufio.ErrNegativeAdvance,
		"bufio.ErrNegativeCount":     bufio.ErrNegativeCount,
		"bufio.ErrTooLong":           bufio.ErrTooLong,
		"context.Canceled":           context.Canceled,
		"context.DeadlineExceeded":   context.DeadlineExceeded,
		"errors.ErrUnsupported":      errors.ErrUnsupported,
		"io.EOF":                     io.EOF,
		"io.ErrClosedPipe":           io.ErrClosedPipe,
		"io.ErrNoProgress":           io.ErrNoProgress,
		"io.ErrShortBuffer":          io.ErrShortBuffer,
		"io.ErrShortWrite":           io.ErrShortWrite,
		"io.ErrUnexpectedEOF":        io.ErrUnexpectedEOF,
		"io/fs.ErrClosed":            fs.ErrClosed,
		"io/fs.ErrExist":             fs.ErrExist,
		"io/fs.ErrInvalid":           fs.ErrInvalid,
		"io/fs.ErrNotExist":          fs.ErrNotExist,
		"io/fs.ErrPermission":        fs.ErrPermission,
		"io/fs.SkipAll":              fs.SkipAll,
		"io/fs.SkipDir":              fs.SkipDir,
		"os.ErrDeadlineExceeded":     os.ErrDeadlineExceeded,
		"os.ErrNoDeadline":           os.ErrNoDeadline,
		"os.ErrNoHandle":             os.ErrNoHandle,
		"os.ErrProcessDone":          os.ErrProcessDone,
		"strconv.ErrRange":           strconv.ErrRange,
		"strconv.ErrSyntax":          strconv.ErrSyntax,
	}
})

var standardSentinelNames = sync.OnceValue(func() map[error]string {
	names := map[error]string{}
	for name, err := range standardSentinels() {
		names[err] = name
	}
	return names
})

// Error registers an error variable, so that an error which is (or wraps) it still is after it crossed the wire. The
// name is that of the variable: "example.com/m.ErrDiverged". A nil err is ignored, and a nil pointer, and one that can't
// be compared, since nothing can find it by ==. Two names for one error are fine. It panics if name is taken by another
// error.
func Error(name string, err error) {
	if v := reflect.ValueOf(err); !canCompare(err) || v.Kind() == reflect.Pointer && v.IsNil() {
		return
	}
	sentinels.Lock()
	defer sentinels.Unlock()
	if other, ok := sentinels.byName[name]; ok && other != err {
		panic(fmt.Sprintf("registry: two errors are registered as %s, %q and %q; run go generate again", name, other, err))
	}
	sentinels.byName[name] = err
	if _, ok := sentinels.names[err]; !ok {
		sentinels.names[err] = name
	}
}

// sentinelName gives the name of the variable that err is, by ==. It does not look at what err wraps.
func sentinelName(err error) (string, bool) {
	if !canCompare(err) {
		return "", false
	}
	if name, ok := standardSentinelNames()[err]; ok {
		return name, true
	}
	sentinels.RLock()
	defer sentinels.RUnlock()
	name, ok := sentinels.names[err]
	return name, ok
}

// sentinelNamed gives the error variable of that name.
func sentinelNamed(name string) (error, bool) {
	if err, ok := standardSentinels()[name]; ok {
		return err, true
	}
	sentinels.RLock()
	defer sentinels.RUnlock()
	err, ok := sentinels.byName[name]
	return err, ok
}

// canCompare reports whether err is there and == on it doesn't panic.
func canCompare(err error) bool {
	return err != nil && reflect.ValueOf(err).Comparable()
}
