package sbx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// maxSecret is how long a secret may be: Linux takes no longer variables.
const maxSecret = 128<<10 - 1

// SecretSource is where the value of a [Secret] comes from: [SecretEnv], [SecretFile] or [SecretFunc] makes it. It holds no value.
type SecretSource struct {
	kind, name string
	read       *func(context.Context) (string, error) // for kind "function"
}

// SecretEnv is a variable of this program's environment.
func SecretEnv(name string) SecretSource {
	return SecretSource{kind: "environment variable", name: name}
}

// SecretFile is a file on this machine. A line break at its end does not count. It may be a named pipe, which then must be written to for each
// sandbox. A pipe without a name, as a shell's <(command), gives its value to one sandbox, and the start of any other fails.
func SecretFile(path string) SecretSource { return SecretSource{kind: "file", name: path} }

// SecretFunc is what read returns, which may be called by several goroutines at the same time. ctx ends when nothing waits for the value any more. What its errors
// say stands in the errors of sbx; that of a panic does, too.
func SecretFunc(read func(ctx context.Context) (string, error)) SecretSource {
	if read == nil {
		return SecretSource{}
	}
	return SecretSource{kind: "function", read: &read}
}

// String says what the source is, without the value.
func (s SecretSource) String() string {
	switch s.kind {
	case "":
		return "no source"
	case "function":
		return "a function"
	}
	return fmt.Sprintf("the %s %q", s.kind, s.name)
}

// GoString is String, for %#v.
func (s SecretSource) GoString() string { return s.String() }

// Secret sets an environment variable of the sandbox to a value that is read each time that a sandbox is made, and not kept by the session. Where it
// can't be read, the start fails with a [*SecretError]. Every process in the sandbox can read it there, and what a function or command returns or
// prints is up to that; sbx itself puts it into no log record, error, argument or String.
//
// The same secret from the same source twice is one. From different sources, or beside an [Env] of the same name, it is an error. A SecretFunc is the same
// source only as the same SecretSource value.
func Secret(name string, source SecretSource) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if err := checkVariable("Secret", name); err != nil {
			return err
		}
		if source.kind == "" || source.read == nil && source.name == "" {
			return &OptionError{Option: "Secret", Reason: fmt.Sprintf("%q has no source; give sbx.SecretEnv, sbx.SecretFile or sbx.SecretFunc", name)}
		}
		if _, found := s.env[name]; found {
			return secretConflict(name, "sbx.Env", source.String())
		}
		if other, found := s.secrets.find(name); found {
			if other != source {
				return secretConflict(name, other.String(), source.String())
			}
			return nil
		}
		s.secrets = s.secrets.with(name, source)
		return nil
	})
}

func secretConflict(name string, sources ...string) error {
	return &OptionError{Option: "Secret", Reason: fmt.Sprintf("%q comes from %s; give one of them, or another name", name, strings.Join(sources, " and from "))}
}

// SecretError says that a sandbox could not be started because the value of a secret could not be had.
type SecretError struct {
	// Name is the secret's name, and Source says where it should have come from.
	Name, Source string
	// Err is the cause.
	Err error
}

func (e *SecretError) Error() string {
	return fmt.Sprintf("secret %q from %s: %v", e.Name, e.Source, e.Err)
}

func (e *SecretError) Unwrap() error { return e.Err }

// secrets is a list in the order of names. Lists of the same secrets are equal by ==, since what is in the interface is, too.
type secrets struct {
	name   string
	source SecretSource
	rest   any // secrets; the last one has an empty list
}

// next returns the rest of the list.
func (l secrets) next() secrets {
	rest, _ := l.rest.(secrets)
	return rest
}

func (l secrets) find(name string) (SecretSource, bool) {
	for ; l.name != ""; l = l.next() {
		if l.name == name {
			return l.source, true
		}
	}
	return SecretSource{}, false
}

func (l secrets) with(name string, source SecretSource) secrets {
	if l.name == "" || name < l.name {
		return secrets{name, source, l}
	}
	l.rest = l.next().with(name, source)
	return l
}

// environ reads the values, one after the other, as "KEY=VALUE".
func (l secrets) environ(ctx context.Context) ([]string, error) {
	var environ []string
	for ; l.name != ""; l = l.next() {
		value, err := l.source.value(ctx)
		if err != nil {
			return nil, &SecretError{Name: l.name, Source: l.source.String(), Err: err}
		}
		environ = append(environ, l.name+"="+value)
	}
	return environ, nil
}

// value reads the value. When ctx ends, it is not waited for.
func (s SecretSource) value(ctx context.Context) (string, error) {
	type outcome struct {
		value string
		err   error
	}
	done := make(chan outcome, 1)
	go func() { // user code may block
		o := outcome{err: errors.New("its goroutine was ended")}
		defer func() {
			if value := recover(); value != nil {
				o.err = fmt.Errorf("its function panicked: %v\n\n%s", value, debug.Stack())
			}
			done <- o
		}()
		value, err := s.get(ctx)
		o.value, o.err = value, tame(err)
	}()
	select {
	case <-ctx.Done():
		return "", contextError(ctx)
	case o := <-done:
		switch {
		case o.err != nil:
			return "", o.err
		case strings.Contains(o.value, "\x00"): // and no more of it
			return "", errors.New("its value holds a NUL byte, which no environment variable can; give it to the sandbox as a file")
		case len(o.value) > maxSecret:
			return "", fmt.Errorf("its value is longer than %d bytes; give it to the sandbox as a file", maxSecret)
		}
		return o.value, nil
	}
}

func (s SecretSource) get(ctx context.Context) (string, error) {
	switch s.kind {
	case "environment variable":
		value, found := os.LookupEnv(s.name)
		if !found {
			return "", errors.New("it is not set in this program's environment; set it there, or give the secret another source")
		}
		return value, nil
	case "file":
		data, err := readSecret(ctx, s.name)
		value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		return value, err
	}
	return (*s.read)(ctx)
}

// errPipeRead is of a pipe as a shell makes for <(command).
var errPipeRead = errors.New("the pipe has nothing (more): such a pipe gives its value once, to one sandbox; read it in the program, and give it by SecretFunc")

// readSecret reads a file, no longer than ctx lasts. One that is a pipe is waited for until somebody has written to it.
func readSecret(ctx context.Context, name string) ([]byte, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|nonblock, 0) // which would wait for a writer, and nothing could end that
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	pipe := info.Mode()&fs.ModeNamedPipe != 0
	_, nameless := filepath.EvalSymlinks(name) // as /dev/fd/3 may be: it has no writers but those that it had
	wait := pipe && nameless == nil
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()
	var data []byte
	for {
		more, err := io.ReadAll(io.LimitReader(file, int64(maxSecret+3-len(data)))) // with a line break, and what is too much
		data = append(data, more...)
		coming := errors.Is(err, syscall.EAGAIN) // a writer has it open: package os waits for that, but on macOS
		switch {
		case coming:
		case pipe && !wait && err == nil && len(data) == 0: // not as if the secret were empty
			return nil, errPipeRead
		case err != nil || len(data) > 0 || !wait:
			return data, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
