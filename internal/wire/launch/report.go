package launch

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
)

const (
	// maxHandshake is the longest first line that go-plugin gets to see.
	maxHandshake = 4 << 10
	// maxReport bounds what is kept of all that a worker writes on its handshake descriptor. Then the pipe is closed: a
	// worker that writes without end costs nothing, and a crash that is longer has said by then what happened.
	maxReport = 64 << 10
	// crashCode is the exit status of a Go program that crashed, where no signal ends it.
	crashCode = 2
)

// A report reads what a worker writes on its handshake descriptor: the line that go-plugin waits for, and later, if
// anything, what is to be said about the process's end. It is the io.ReadCloser of the line, for go-plugin. One goroutine reads;
// close ends it.
type report struct {
	from    io.ReadCloser
	limit   int // of what is kept
	ended   chan struct{}
	arrived chan struct{} // closed when there is a line, or will be none
	arrive  func()

	mu   sync.Mutex
	line string // what go-plugin has not read yet
	kept strings.Builder
}

func readReport(from io.ReadCloser, limit int) *report {
	r := &report{from: from, limit: limit, ended: make(chan struct{}), arrived: make(chan struct{})}
	r.arrive = sync.OnceFunc(func() { close(r.arrived) })
	go r.read()
	return r
}

func (r *report) read() {
	defer close(r.ended)
	defer func() { _ = r.from.Close() }()
	defer r.arrive()
	reader := bufio.NewReaderSize(r.from, maxHandshake)
	slice, err := reader.ReadSlice('\n')
	r.mu.Lock()
	r.line = handshakeOf(string(slice))
	r.kept.Write(slice)
	r.mu.Unlock()
	r.arrive()
	piece := make([]byte, 4<<10)
	for left := r.limit - len(slice); left > 0 && (err == nil || errors.Is(err, bufio.ErrBufferFull)); {
		var n int
		n, err = reader.Read(piece[:min(left, len(piece))])
		left -= n
		r.mu.Lock()
		r.kept.Write(piece[:n])
		r.mu.Unlock()
	}
}

// handshakeFields are the fields of the line up to the protocol.
const handshakeFields = 5

// handshakeOf is what go-plugin gets of the line. It takes what may follow for a certificate, and panics if it is one where it was not
// asked to use TLS.
func handshakeOf(line string) string {
	fields := strings.Split(line, "|")
	return strings.Join(fields[:min(handshakeFields, len(fields))], "|")
}

// Read returns the first line, and then io.EOF.
func (r *report) Read(p []byte) (int, error) {
	<-r.arrived
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.line == "" {
		return 0, io.EOF
	}
	n := copy(p, r.line)
	r.line = r.line[n:]
	return n, nil
}

// Close ends the wait for the line. What follows it is still read.
func (r *report) Close() error {
	r.arrive()
	return nil
}

// text is all that has arrived, but for the coverage. Call settle before, when the process has ended.
func (r *report) text() string {
	text, _ := r.parts()
	return text
}

// coverage is the coverage that has arrived; empty if none has.
func (r *report) coverage() string {
	_, coverage := r.parts()
	return coverage
}

func (r *report) parts() (text, coverage string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, coverage, _ = strings.Cut(r.kept.String(), wire.CoverageMark)
	return text, coverage
}

// settle waits until all was read, or settleTime has passed.
func (r *report) settle() {
	select {
	case <-r.ended:
	case <-time.After(settleTime):
	}
}

// close ends the reader and waits for it.
func (r *report) close() {
	_ = r.Close()
	_ = r.from.Close()
	<-r.ended
}

// crash returns what the runtime printed about its crash; nil if it did not crash. It waits for that, for a while. exit is
// how the process ended, nil if that is not known, and fatal the last fatal error that standard error told of.
func (r *report) crash(exit *driver.Exit, fatal string) *Crash {
	r.settle()
	if exit != nil && exit.Signal == 0 && exit.Code != crashCode {
		return nil
	}
	crash := parseCrash(r.text(), fatal)
	if crash == nil && strings.HasPrefix(fatal, NoPoll) { // what was closed is the report's descriptor, too
		crash = &Crash{Kind: CrashFatal, Message: fatal, Text: "fatal error: " + fatal}
	}
	return crash
}

// decided returns which of package wire's reasons the worker gave for its end; empty if it gave none.
func (r *report) decided() string {
	text := r.text()
	for _, why := range []string{wire.StreamEnded, wire.LeaseEnded, wire.FunctionHeld} {
		if strings.HasSuffix(text, why) {
			return why
		}
	}
	return ""
}
