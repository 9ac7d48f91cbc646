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
	// keptLines, crashLines and keptLine bound what is remembered for the error of a lost sandbox: the last lines, and the
	// first ones of a crash, which says what happened before it prints every goroutine.
	keptLines  = 20
	crashLines = 10
	keptLine   = 1 << 10
	// settleTime is how long to wait, after a process ended, for the rest of its output. A process that it left behind
	// may hold the pipes open; the sandbox's stop ends that one too.
	settleTime = 500 * time.Millisecond
)

// output reads what user code prints, line by line, and keeps the last lines. It always drains: user code never blocks
// on a slow reader of logs for longer than the callback takes.
type output struct {
	streams []io.Closer
	ended   chan struct{}

	mu    sync.Mutex
	count int // of lines
	lines []string
	crash []string
	first int // the number of crash's first line
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
	o.count++
	if len(o.lines) == keptLines {
		o.lines = append(o.lines[:0], o.lines[1:]...)
	}
	o.lines = append(o.lines, line)
	switch {
	case stream != "stderr":
	case strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: "):
		o.crash, o.first = []string{line}, o.count
	case len(o.crash) > 0 && len(o.crash) < crashLines:
		o.crash = append(o.crash, line)
	}
}

// last returns the last lines, and before them the first lines of a crash if they are not among them.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.crash) == 0 || o.first > o.count-len(o.lines) {
		return slices.Clone(o.lines)
	}
	return slices.Concat(o.crash, []string{"…"}, o.lines)
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
