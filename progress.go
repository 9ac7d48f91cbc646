package sbx

import (
	"context"
	"fmt"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// Progress tells the caller how far the function has come in which it is called: done of total, which is 0 if that is not known, and a
// note, such as "epoch 3". [Call.Progress] and [Session.Calls] return it, [Watchdog] logs it and [ShowProgress] shows it.
//
// It never waits, and is cheap enough for an inner loop: the latest counts, and some ten a second of each call are sent. The last one arrives before the
// call's result does. A note has at most 1 KiB, in one line; what is longer is cut, and what is not printed replaced.
// It may be called by several goroutines. Outside of a call, under Local, and when the function has returned, it does nothing.
func Progress(ctx context.Context, done, total int64, note string) {
	callinfo.Progress(ctx, done, total, note)
}

// CallProgress is what a function told by [Progress]. It is the sandbox's own word.
type CallProgress struct {
	// Done is how much is done of Total, which is 0 if that is not known. Neither is negative; Done may be above Total.
	Done, Total int64
	// Note is in one line, has no control characters, and at most 1 KiB.
	Note string
	// Time is when it arrived; zero if the function has told nothing in this attempt.
	Time time.Time
}

// String is what is known: "3 of 7: epoch 3".
func (p CallProgress) String() string {
	text := p.Note
	if p.Done > 0 || p.Total > 0 {
		text = fmt.Sprint(p.Done)
		if p.Total > 0 {
			text += fmt.Sprintf(" of %d", p.Total)
		}
		if p.Note != "" {
			text += ": " + p.Note
		}
	}
	return text
}

func newCallProgress(told *launch.Progress) CallProgress {
	if told == nil {
		return CallProgress{}
	}
	return CallProgress(*told)
}

// Progress is the latest that the function has told by [Progress], in the call's latest attempt; zero if it has told nothing.
func (c *Call[Out]) Progress() CallProgress {
	if c == nil || c.told == nil {
		return newCallProgress(nil)
	}
	return newCallProgress(c.told())
}
