package launch

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
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

// output reads what user code prints, line by line, and keeps the last lines. It always drains: user code never blocks
// on a slow reader of logs for longer than the callback takes.
type output struct {
	streams []io.Closer
	ended   chan struct{}

	mu     sync.Mutex
	lines  []string
	fatal  string   // the text of the last fatal error on stderr
	before []string // the last lines that are not of what may be a crash; nil if nothing looks like one
}

func readOutput(process driver.Process, emit func(stream, line string)) *output {
	o := &output{streams: []io.Closer{process.Stdout(), process.Stderr()}, ended: make(chan struct{})}
	var readers sync.WaitGroup
	readers.Go(func() { o.read("stdout", process.Stdout(), emit) })
	readers.Go(func() { o.read("stderr", process.Stderr(), emit) })
	go func() {
		readers.Wait()
		close(o.ended)
	}()
	return o
}

func (o *output) read(stream string, from io.ReadCloser, emit func(stream, line string)) {
	defer func() { _ = from.Close() }()
	reader := bufio.NewReaderSize(from, maxLine)
	for {
		slice, err := reader.ReadSlice('\n')
		if len(slice) > 0 {
			line := wire.Clip(string(trimNewline(slice)), maxLine)
			o.keep(stream, line)
			if emit != nil {
				emit(stream, line)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func trimNewline(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		return line[:n-1]
	}
	return line
}

func (o *output) keep(stream, line string) {
	line = wire.Clip(line, keptLine)
	o.mu.Lock()
	defer o.mu.Unlock()
	if stream == "stderr" {
		message, fatal := strings.CutPrefix(line, "fatal error: ")
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

// settle waits until all output was read, or settleTime has passed.
func (o *output) settle() {
	select {
	case <-o.ended:
	case <-time.After(settleTime):
	}
}

// close ends the readers and waits for them, but not for a callback that blocks.
func (o *output) close() {
	for _, stream := range o.streams {
		_ = stream.Close()
	}
	o.settle()
}
