package launch

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// maxLine is the longest line of user output that is kept whole; a longer one arrives in pieces.
	maxLine = 64 << 10
	// keptLines and keptLine bound what is remembered for the error of a lost sandbox: its last lines.
	keptLines = 20
	keptLine  = 1 << 10
	// settleTime is how long to wait, after a process ended, for the rest of its output. A process that it left behind
	// may hold the pipes open; the sandbox's stop ends that one too.
	settleTime = 500 * time.Millisecond
)

// output is what comes of user code beside results: what it prints, which is read here, and what it logs. It keeps the last
// lines. Who prints waits for a slow reader of logs, through the pipe; nothing else does.
type output struct {
	callers
	source  *source
	streams []io.Closer
	ended   chan struct{}

	mu     sync.Mutex
	lines  []string
	fatal  string   // the text of the last fatal error on stderr
	before []string // the last lines that are not of what may be a crash; nil if nothing looks like one
}

// Writers take what user code prints, as it comes. One that is nil drops it.
type Writers struct{ Stdout, Stderr io.Writer }

func readOutput(process driver.Process, config Config) *output {
	o := &output{
		source:  config.Logs.source(config.Sandbox),
		streams: []io.Closer{process.Stdout(), process.Stderr()},
		ended:   make(chan struct{}),
	}
	stdout, stderr := newSinks(config.Output)
	var readers sync.WaitGroup
	o.follow(&readers, "stdout", process.Stdout(), &splitter{}, stdout)
	o.follow(&readers, "stderr", process.Stderr(), &splitter{}, stderr)
	go func() {
		readers.Wait()
		close(o.ended)
	}()
	return o
}

// follow reads a stream to its end on a goroutine of its own, and on another one if a writer ends that, as a test's FailNow does: what
// prints would be killed otherwise.
func (o *output) follow(readers *sync.WaitGroup, stream string, from io.ReadCloser, lines *splitter, to *sink) {
	readers.Go(func() {
		ended := false
		defer func() {
			if !ended {
				o.failed(stream, errWriterGoexit)
				o.follow(readers, stream, from, lines, to)
			}
		}()
		o.read(stream, from, lines, to)
		_ = from.Close()
		ended = true
	})
}

var errWriterGoexit = errors.New("it called runtime.Goexit")

func (o *output) failed(stream string, err error) {
	o.source.warn("sbx: a writer of sbx.Output failed; what else is printed is dropped", slog.String("stream", stream), slog.Any("error", err))
}

// read reads a stream to its end. If to is nil, lines become records.
func (o *output) read(stream string, from io.Reader, lines *splitter, to *sink) {
	line := func(line []byte) { o.line(stream, string(line), to == nil) }
	buffer := make([]byte, 4<<10) // sandboxes that print nothing keep it, too
	for {
		n, err := from.Read(buffer)
		lines.split(buffer[:n], line) // first, so that a writer that blocks does not hide the last lines
		if writeErr := to.write(buffer[:n]); writeErr != nil {
			o.failed(stream, writeErr)
		}
		if err != nil {
			lines.end(line)
			return
		}
	}
}

func (o *output) line(stream, text string, record bool) {
	text = wire.Clip(text, maxLine)
	o.keep(stream, text)
	if record && o.source.takesLines() {
		o.source.line(stream, text, o.sole())
	}
}

// log takes what the worker sent of user code's own records.
func (o *output) log(message *wirepb.Log) {
	record, size := wire.DecodeRecord(message.GetRecord())
	if message.GetRecord() != nil {
		o.keep("log", wire.RecordText(record))
	}
	o.source.log(message, record, size, o.find(message.GetCall()))
}

// splitter cuts what it gets into lines, and lines that are too long into pieces.
type splitter struct {
	partial []byte // of a line that has not ended
	cut     bool   // the last piece may have been the whole line
}

func (s *splitter) split(chunk []byte, each func(line []byte)) {
	for len(chunk) > 0 {
		if s.cut && chunk[0] == '\n' {
			chunk, s.cut = chunk[1:], false
			continue
		}
		room := maxLine - len(s.partial)
		end, next := bytes.IndexByte(chunk[:min(room, len(chunk))], '\n'), 0
		switch {
		case end >= 0:
			next = end + 1
		case len(chunk) >= room:
			end, next = room, room
		default:
			s.partial = append(s.partial, chunk...)
			return
		}
		s.cut = next == room && end == room
		line := chunk[:end]
		if len(s.partial) > 0 {
			line = append(s.partial, line...)
		}
		each(line)
		s.partial, chunk = s.partial[:0], chunk[next:]
	}
}

// end takes the end of the output for the end of a line.
func (s *splitter) end(each func(line []byte)) {
	if len(s.partial) > 0 {
		each(s.partial)
	}
}

// sink is one of the writers, until its first error. The nil sink is none.
type sink struct {
	writer io.Writer
	turn   *sync.Mutex // of the writer
	failed bool
}

// newSinks returns nil where there are no writers. Where both are one, it is called by one goroutine at a time, as in os/exec.
func newSinks(writers *Writers) (stdout, stderr *sink) {
	if writers == nil {
		return nil, nil
	}
	stdout, stderr = &sink{writer: writers.Stdout, turn: &sync.Mutex{}}, &sink{writer: writers.Stderr, turn: &sync.Mutex{}}
	if v := reflect.ValueOf(writers.Stdout); v.IsValid() && v.Comparable() && writers.Stdout == writers.Stderr {
		stderr.turn = stdout.turn
	}
	return stdout, stderr
}

// write returns the writer's first error, once.
func (s *sink) write(data []byte) error {
	if s == nil || s.writer == nil || s.failed || len(data) == 0 {
		return nil
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	s.failed = true // also if it ends the goroutine
	n, err := s.writer.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	s.failed = err != nil
	return err
}

func (o *output) keep(stream, line string) {
	line = wire.Clip(line, keptLine)
	o.mu.Lock()
	defer o.mu.Unlock()
	if stream == "stderr" {
		message, fatal := strings.CutPrefix(line, "fatal error: ")
		if !fatal {
			// Two threads may print at the same time; what one says between the other's words is not the cause.
			_, message, _ = strings.Cut(line, "runtime/cgo: ")
			at := strings.Index(message, noThread)
			if fatal = at >= 0; fatal {
				message = message[at:]
			}
		}
		if fatal {
			o.fatal = message
		}
		if fatal || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "SIG") {
			o.before = append([]string{}, o.lines...)
		}
	} else if o.before != nil { // it may have been printed before the crash
		o.before = push(o.before, line)
	}
	o.lines = push(o.lines, line)
}

// push adds a line, and drops the first one if there are enough.
func push(lines []string, line string) []string {
	if len(lines) == keptLines {
		lines = append(lines[:0], lines[1:]...)
	}
	return append(lines, line)
}

// fatalError returns the text of the last fatal error that stderr had.
func (o *output) fatalError() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fatal
}

// last returns the last lines that are not the runtime's about crash, which may be nil.
func (o *output) last(crash *Crash) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if crash == nil || o.before == nil {
		return slices.Clone(o.lines)
	}
	theirs := map[string]bool{}
	for line := range strings.SplitSeq(crash.Text, "\n") {
		theirs[wire.Clip(line, keptLine)] = true
	}
	return slices.DeleteFunc(slices.Clone(o.before), func(line string) bool { return theirs[line] })
}

// settle waits until all output was read, or settleTime has passed. Call it after the process has ended.
func (o *output) settle() {
	o.source.rush()
	select {
	case <-o.ended:
	case <-time.After(settleTime):
	}
}

// close ends the readers and waits for them, but not for a writer that blocks.
func (o *output) close() {
	for _, stream := range o.streams {
		_ = stream.Close()
	}
	o.settle()
}
