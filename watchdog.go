package sbx

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
)

const (
	// maxWarnings is how many warnings a watchdog logs at a time; what is more is counted.
	maxWarnings = 20
	// maxNamed is how many calls a warning names that are in another's way.
	maxNamed = 3
	// stackTime is how long a worker is waited for that is asked where a call is.
	stackTime = time.Second
)

// Watchdog has the session log a warning to its [Logger] for each call that has been waiting, or running, for longer than after, and again when
// that is twice as long, four times, and so on. The warning says why the call does not go on: it waits for a sandbox, and with what all
// of them are busy; a sandbox is being started, and since when; it is queued in a busy sandbox, and behind which call; or it has been running, and at which line of its
// function's package. With it comes the latest that the function told by [Progress]. after must be above 0.
//
// Calls of one function that wait for a sandbox at the same time are told as one, the first of them and how many there are, for as long as any of them has waited for that
// long: a map with more inputs than sandboxes has many. Of many other calls in one state at a time, 20 are told, those that run first, and how many more there are. What a call does at the moment
// is asked of its sandbox, whose word it is; [Call.Stacks] and [Session.Stacks] show the rest.
func Watchdog(after time.Duration) OpenOption {
	return openOption(func(c *openConfig) {
		if after <= 0 {
			c.errs = append(c.errs, &OptionError{Option: "Watchdog", Reason: fmt.Sprintf("is %v; give a time above 0", after)})
		}
		c.watchdog = after
	})
}

// watchdog warns of calls that do not go on.
type watchdog struct {
	session *Session
	after   time.Duration
	warned  map[any]warning // by subject
}

// warning is when to warn of a call again, if it is still in that state.
type warning struct {
	state CallState
	since time.Time
	next  time.Duration
}

// run is the watchdog's goroutine.
func (w *watchdog) run(ctx context.Context) {
	ticker := time.NewTicker(max(min(w.after/4, 5*time.Second), 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look warns of those of which it is time to.
func (w *watchdog) look(ctx context.Context) {
	now := time.Now()
	warned := map[any]warning{}
	var due []look
	for _, l := range crowds(w.session.calls.looks(now.Add(-w.after)), now.Add(-w.after)) {
		last := w.warned[l.subject()]
		if !l.goesOn(last) {
			last = warning{l.State, l.from(), w.after}
		}
		if age := now.Sub(last.since); age >= last.next {
			due = append(due, l)
			for last.next <= age {
				last.next *= 2
			}
		}
		warned[l.subject()] = last
	}
	w.warned = warned
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, func(a, b look) int { return cmp.Or(cmp.Compare(b.State, a.State), a.Since.Compare(b.Since)) })
	more := max(len(due)-maxWarnings, 0)
	due = due[:len(due)-more]
	places := places(ctx, due)
	if ctx.Err() != nil {
		return
	}
	all := w.session.calls.looks(now)
	slices.SortFunc(all, func(a, b look) int { return a.Since.Compare(b.Since) })
	for i, l := range due {
		w.session.log.LogAttrs(ctx, slog.LevelWarn, "sbx: a call "+l.why(now, places[i], all), l.attrs()...)
	}
	if more > 0 {
		w.session.log.LogAttrs(ctx, slog.LevelWarn, "sbx: more calls have been waiting or running for as long", slog.Int("calls", more))
	}
}

// crowds are the looks that have gone on since then, those first that are oldest. Of a function's calls that wait for a sandbox only the
// first one is there, with how many others: a map has a thousand that wait while all goes well.
func crowds(looks []look, since time.Time) []look {
	slices.SortStableFunc(looks, func(a, b look) int { return a.from().Compare(b.from()) })
	var crowds []look
	first := map[crowd]int{}
	for _, l := range looks {
		if l.from().After(since) {
			break
		}
		if l.waits() {
			if i, ok := first[l.crowd()]; ok {
				crowds[i].others++
				continue
			}
			first[l.crowd()] = len(crowds)
		}
		crowds = append(crowds, l)
	}
	return crowds
}

// waits says that a call has no sandbox.
func (l *look) waits() bool { return l.State == CallWaiting || l.State == CallStarting }

// from is since when a call waits for a sandbox, whether one is being started or not, or is in its state.
func (l *look) from() time.Time {
	if l.waits() {
		return l.queued
	}
	return l.Since
}

// subject is what is warned of: a call, or that calls of a function wait.
func (l *look) subject() any {
	if l.waits() {
		return l.crowd()
	}
	return l.request
}

// A crowd is of calls that wait for the same: of one function, however often it was wrapped, in sandboxes of one class, or in one of the program's own.
type crowd struct {
	function string
	class    class
	where    *Sandbox
}

func (l *look) crowd() crowd {
	f := l.underway.f
	return crowd{f.name(), f.class, f.where}
}

// goesOn says that a warning was of the same thing. The calls that wait may be others.
func (l *look) goesOn(last warning) bool {
	return last.next > 0 && (l.waits() || last.state == l.State && last.since.Equal(l.Since))
}

// places asks where the calls are that run.
func places(ctx context.Context, looks []look) []string {
	ctx, cancel := context.WithTimeout(ctx, stackTime)
	defer cancel()
	places := make([]string, len(looks))
	var asked sync.WaitGroup
	for i, l := range looks {
		if l.State == CallRunning {
			asked.Go(func() {
				if stack, err := l.underway.pending.Stack(ctx); err == nil {
					places[i] = placeIn(stack)
				}
			})
		}
	}
	asked.Wait()
	return places
}

// why says what a call does or waits for. all are the session's calls, those first that have been in their state for the longest time.
func (l *look) why(now time.Time, place string, all []look) string {
	age := rounded(now.Sub(l.Since))
	switch l.State {
	case CallRunning:
		if place == "" {
			return fmt.Sprintf("has been running for %v", age)
		}
		return fmt.Sprintf("has been running for %v, at %s", age, place)
	case CallQueued:
		in := func(other *look) bool { return other.Sandbox == l.Sandbox }
		return fmt.Sprintf("has been queued in a busy sandbox for %v, behind %s", age, named(now, all, in))
	case CallStarting:
		return fmt.Sprintf("has been waiting for a sandbox for %v, one of which has been starting for %v", rounded(now.Sub(l.queued)), rounded(now.Sub(l.view.StartingSince))) + l.andOthers()
	}
	text := fmt.Sprintf("has been waiting for a sandbox for %v", age)
	v := l.view
	if v.Busy > 0 {
		same := func(other *look) bool {
			return other.underway.lease != nil && other.underway.f.sandboxes() == l.underway.f.sandboxes()
		}
		text += fmt.Sprintf("; of %d sandboxes that there may be, %d are busy, with %s", v.Maximum, v.Busy, named(now, all, same))
	}
	if v.Starting > 0 {
		text += fmt.Sprintf("; sandboxes of other kinds are being started (%d)", v.Starting)
	}
	if v.Stopping > 0 {
		text += fmt.Sprintf("; sandboxes are being stopped whose places are not free before they have (%d)", v.Stopping)
	}
	if v.Held {
		text += "; the last one that it could have had could not be started"
	}
	return text + l.andOthers()
}

// andOthers tells of the calls that wait like this one.
func (l *look) andOthers() string {
	if l.others == 0 {
		return ""
	}
	return fmt.Sprintf("; %d more calls of this function have been waiting for as long as the watchdog allows", l.others)
}

// named names calls that run and that are meant, for a message.
func named(now time.Time, all []look, meant func(*look) bool) string {
	var names []string
	more := 0
	for i := range all {
		switch l := &all[i]; {
		case l.State != CallRunning || !meant(l):
		case len(names) == maxNamed:
			more++
		default:
			names = append(names, fmt.Sprintf("call %s of %s, which has been running for %v", l.Call, l.Function, rounded(now.Sub(l.Since))))
		}
	}
	if more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if len(names) == 0 {
		return "calls that have just ended"
	}
	return strings.Join(names, ", ")
}

func (l *look) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("function", l.Function), slog.String("call", l.Call), slog.String("state", l.State.String())}
	if l.Index >= 0 {
		attrs = append(attrs, slog.Int("index", l.Index))
	}
	if l.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", l.Attempt))
	}
	if l.Sandbox != "" {
		attrs = append(attrs, slog.String("sandbox", l.Sandbox))
	}
	if p := l.Progress; !p.Time.IsZero() {
		attrs = append(attrs, slog.Int64("done", p.Done), slog.Int64("total", p.Total), slog.String("note", p.Note))
	}
	return attrs
}

// rounded is a time as it is told.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}

// functionsCaller is how the names begin of what calls a function in a sandbox.
const functionsCaller = "github.com/sandboxfn/sbx/registry."

// maxPlace bounds the text of a place.
const maxPlace = 200

// placeIn finds in a stack, as the runtime prints it, where the function is: the innermost frame of its package. It is empty if there is none.
// The stack is the sandbox's word.
func placeIn(stack []byte) string {
	text := string(stack)
	outermost := ""
	for name := range functionFrames(text) {
		outermost = name
	}
	function := packageOf(outermost)
	for name, at := range functionFrames(text) {
		if packageOf(name) == function {
			return placeText(name, at)
		}
	}
	return ""
}

// functionFrames are the frames of a stack from the innermost one to the function's: the name and the place of each. They are not
// gathered, since a stack of empty lines would have many.
func functionFrames(stack string) iter.Seq2[string, string] {
	return func(yield func(name, at string) bool) {
		_, rest, more := strings.Cut(stack, "\n") // of the goroutine itself
		for more {
			var name, at string
			name, rest, more = strings.Cut(rest, "\n")
			if !more || strings.HasPrefix(name, functionsCaller) {
				return
			}
			at, rest, more = strings.Cut(rest, "\n")
			if !yield(name, at) {
				return
			}
		}
	}
}

// placeText tells of a frame.
func placeText(name, at string) string {
	at, _, _ = strings.Cut(strings.TrimPrefix(at, "\t"), " +0x")
	if end := strings.LastIndexByte(name, '('); end > 0 {
		name = name[:end]
	}
	place := path.Base(strings.ReplaceAll(at, `\`, "/")) + " (" + path.Base(name) + ")"
	return wire.Note(place[:min(len(place), maxPlace)])
}

// packageOf is the path of the package in the name of a function, as the runtime has it.
func packageOf(name string) string {
	name, _, _ = strings.Cut(name, "(")
	slash := strings.LastIndexByte(name, '/') + 1
	base, _, _ := strings.Cut(name[slash:], ".")
	return name[:slash] + base
}
