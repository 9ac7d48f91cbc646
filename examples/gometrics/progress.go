package main

import (
	"fmt"
	"os"
	"time"
)

// progress tells how far a run is: on a terminal it rewrites one line, elsewhere it writes a line now and then.
type progress struct {
	to       *os.File
	terminal bool
	every    time.Duration
	last     time.Time
}

func newProgress(to *os.File) *progress {
	p := &progress{to: to, every: 2 * time.Second, last: time.Now()}
	if info, err := to.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.terminal, p.every = true, 50*time.Millisecond
	}
	return p
}

func (p *progress) update(done int, latest string) {
	if time.Since(p.last) < p.every {
		return
	}
	p.last = time.Now()
	if p.terminal {
		fmt.Fprintf(p.to, "\r\033[K%d packages, the latest %s", done, latest)
	} else {
		fmt.Fprintf(p.to, "%d packages, the latest %s\n", done, latest)
	}
}

// end clears the line.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.to, "\r\033[K")
	}
}
