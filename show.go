package sbx

import (
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// ShowProgress shows how far the run over the inputs has come, from its begin to its end, whatever ends it. If w is a terminal, it is a bar
// with a line below; otherwise, and where the variable TERM is "dumb", it is a line every ten seconds and one at the end. Without this option nothing is shown.
//
// Shown are the inputs that are done, of how many ([Function.MapSlice] knows that; [Total] tells it for sequences), their rate and the time left,
// and, of those, how many failed, how many times calls ran again ([Retries]), and how many results came from the [Journal]; the
// calls that run and the sandboxes, of all functions of the session where several are at work; and the latest note that a function told by [Progress].
//
// What else the program prints on the same terminal would be mixed with the bar. Give a [Screen] as w, and print to that. So it is with several runs at a time.
// If w blocks, the end of the run waits a second for it, and nothing else does.
func ShowProgress(w io.Writer) MapOption {
	return mapOption(func(c *mapConfig) {
		screen, ok := w.(*Screen)
		if !ok {
			screen = NewScreen(w)
		}
		if screen == nil || screen.w == nil {
			c.errs = append(c.errs, &OptionError{Option: "ShowProgress", Reason: "is nil, or a Screen on no writer; give os.Stderr, say, or leave it out"})
			return
		}
		c.show = screen.show
	})
}

// Total tells [ShowProgress] how many inputs a sequence has, about. n must be above 0.
func Total(n int) MapOption {
	return mapOption(func(c *mapConfig) {
		if n < 1 {
			c.errs = append(c.errs, &OptionError{Option: "Total", Reason: fmt.Sprintf("is %d; give 1 or more, or leave it out if it is not known", n)})
		}
		c.total = n
	})
}

// mapDisplay shows a run: an interface, so that what draws is linked only into programs that use it.
type mapDisplay interface {
	// end shows it for the last time.
	end()
}

// tally is what has become of a run's inputs.
type tally struct {
	ran, recalled atomic.Int64 // those that are done; recalled are those that the journal had
	failed, again atomic.Int64
	told          atomic.Pointer[launch.Progress] // the latest
}

// count counts an input that is done.
func (t *tally) count(r *request, recalled bool, err error) {
	if recalled {
		t.recalled.Add(1)
	} else {
		t.ran.Add(1)
	}
	if err != nil {
		t.failed.Add(1)
	}
	if r.attempt > 1 {
		t.again.Add(int64(r.attempt - 1))
	}
}

const (
	// lineTime is the time between two lines where there is no terminal.
	lineTime = 10 * time.Second
	// sampleTime is the time between two samples of what is done, and maxSamples how many of them the rate is of.
	sampleTime = time.Second
	maxSamples = 30
)

// account tells of a run in words.
type account struct {
	run  *run
	name string

	mu      sync.Mutex
	samples []sample // the oldest first, of the begin at least
}

// sample is how many calls had ended at a time. Results from a journal are no work, and don't count.
type sample struct {
	time time.Time
	ran  int64
}

func newAccount(r *run) *account {
	return &account{run: r, name: wire.Note(path.Base(r.f.name())), samples: []sample{{time: time.Now()}}}
}

// done is how many inputs are done, and of how many; 0 if that is not known.
func (a *account) done() (done, total int64) {
	done, total = a.run.tally.ran.Load()+a.run.tally.recalled.Load(), int64(a.run.config.total)
	if total > 0 {
		total = max(total, done)
	}
	return done, total
}

// rate is how many calls end in a second, and how long those will take that are left; 0 if that is not known.
func (a *account) rate() (rate float64, left time.Duration) {
	done, total := a.done()
	now := sample{time.Now(), a.run.tally.ran.Load()}
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.samples[0]
	if seconds := now.time.Sub(oldest.time).Seconds(); seconds > 0 {
		rate = float64(now.ran-oldest.ran) / seconds
	}
	if now.time.Sub(a.samples[len(a.samples)-1].time) >= sampleTime {
		a.samples = append(a.samples, now)
		if len(a.samples) > maxSamples {
			a.samples = append(a.samples[:0], a.samples[1:]...)
		}
	}
	if rate > 0 {
		left = time.Duration(min(float64(total-done)/rate, 1e9) * float64(time.Second)) // 30 years, and no overflow
	}
	return rate, max(left, 0)
}

// head is what the run is and how far it is.
func (a *account) head() string {
	done, total := a.done()
	if total == 0 {
		return fmt.Sprintf("%s: %d done", a.name, done)
	}
	return fmt.Sprintf("%s: %d of %d done", a.name, done, total)
}

// pace is how fast it is.
func (a *account) pace() string {
	rate, left := a.rate()
	text := fmt.Sprintf("%.1f/s", rate)
	if rate >= 100 {
		text = fmt.Sprintf("%.0f/s", rate)
	}
	done, total := a.done()
	if total == 0 || done == total {
		return text
	}
	text = fmt.Sprintf("%d%%, %s", done*100/total, text)
	if left > 0 {
		text += ", " + max(left.Round(time.Second), time.Second).String() + " left"
	}
	return text
}

// details are the rest.
func (a *account) details() string {
	t := &a.run.tally
	var parts []string
	for _, part := range []struct {
		n    int64
		what string
	}{{t.failed.Load(), "failed"}, {t.again.Load(), "run again"}, {t.recalled.Load(), "from the journal"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	stats := a.run.f.sandboxes().Stats()
	parts = append(parts, fmt.Sprintf("%d running", stats.Running), fmt.Sprintf("sandboxes: %d", stats.Idle+stats.Busy))
	text := strings.Join(parts, ", ")
	if told := t.told.Load(); told != nil {
		text += "; " + newCallProgress(told).String()
	}
	return text
}

// line is all of it.
func (a *account) line() string {
	return a.head() + ", " + a.pace() + ", " + a.details() + "\n"
}

// lines shows a run by lines.
type lines struct {
	*account
	w     io.Writer
	quit  chan struct{}
	ended chan struct{} // closed when the goroutine has
}

func showLines(w io.Writer, r *run) *lines {
	l := &lines{account: newAccount(r), w: w, quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		lineTicker, sampleTicker := time.NewTicker(lineTime), time.NewTicker(sampleTime)
		defer lineTicker.Stop()
		defer sampleTicker.Stop()
		for {
			select {
			case <-sampleTicker.C:
				l.rate()
			case <-lineTicker.C:
				_, _ = io.WriteString(l.w, l.line())
			case <-l.quit:
				_, _ = io.WriteString(l.w, l.line())
				return
			}
		}
	}()
	return l
}

func (l *lines) end() {
	close(l.quit)
	waitFor(l.ended)
}

// waitFor waits for something that a writer may hold up, but not long.
func waitFor(done <-chan struct{}) {
	timer := time.NewTimer(wire.Grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
