package sbx

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// maxFailure bounds a text of the sandbox's in an error.
const maxFailure = 4 << 10

// remoteFailure is the error that the sandbox's side describes; nil for none.
func remoteFailure(f *wirepb.Failure) error {
	if f == nil {
		return nil
	}
	var err error = &sandboxFailure{text: wire.Clip(cmp.Or(string(f.GetText()), "the sandbox did not say why"), maxFailure), kind: f.GetKind(), errno: f.GetErrno()}
	if f.GetKind() == wirepb.Failure_KIND_CLOSED && f.GetOp() == "" {
		err = os.ErrProcessDone
	}
	if f.GetOp() == "" {
		return err
	}
	return &fs.PathError{Op: wire.Clip(f.GetOp(), maxFailure), Path: wire.Clip(string(f.GetPath()), maxFailure), Err: err}
}

// sandboxFailure is an error of the system in a sandbox.
type sandboxFailure struct {
	text  string
	kind  wirepb.Failure_Kind
	errno int64
}

func (e *sandboxFailure) Error() string { return e.text }

// Is makes it what the standard library has for such an error, or the same number of this system, if sandboxes have the same.
func (e *sandboxFailure) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.kind == wirepb.Failure_KIND_NOT_EXIST
	case fs.ErrExist:
		return e.kind == wirepb.Failure_KIND_EXIST
	case fs.ErrPermission:
		return e.kind == wirepb.Failure_KIND_PERMISSION
	case fs.ErrInvalid:
		return e.kind == wirepb.Failure_KIND_INVALID
	case fs.ErrClosed:
		return e.kind == wirepb.Failure_KIND_CLOSED
	case ErrRefused:
		return e.kind == wirepb.Failure_KIND_REFUSED
	}
	number, ok := target.(syscall.Errno)
	return ok && runtime.GOOS == "linux" && e.errno != 0 && int64(number) == e.errno
}

// ErrRefused is wrapped by the error of what sbx does not do with a sandbox by a rule of its own, such as opening a device.
var ErrRefused = errors.New("refused")
