package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/sandboxfn/sbx"
)

// A kind is what a call is, and what may become of it.
type kind struct {
	name string
	// end and ends are the order's.
	end  string
	ends int
	// retries is what the call was wrapped with.
	retries int
	// hasty calls are cancelled, or have a deadline or a Timeout.
	hasty bool
}

// guilty reports whether the call ends its sandbox.
func (k kind) guilty() bool { return causes[k.end] != nil }

// causes says of each way whether an error tells what happened.
var causes = map[string]func(*sbx.SandboxLostError) bool{
	"exit": func(lost *sbx.SandboxLostError) bool {
		return errors.Is(lost, sbx.ErrExited) && lost.Exit != nil && lost.Exit.Code == exitStatus
	},
	"panic elsewhere": func(lost *sbx.SandboxLostError) bool {
		var panicked *sbx.PanicError
		return errors.As(lost, &panicked) && panicked.Elsewhere && strings.Contains(panicked.Stack, "proof.Obey")
	},
	"kill": func(lost *sbx.SandboxLostError) bool {
		return lost.Exit != nil && lost.Exit.Signal == syscall.SIGKILL && !errors.Is(lost, sbx.ErrOutOfMemory)
	},
	"stop": func(lost *sbx.SandboxLostError) bool { return errors.Is(lost, sbx.ErrSilent) },
	"cut": func(lost *sbx.SandboxLostError) bool {
		return strings.Contains(lost.Error(), "lost its connection") && !errors.Is(lost, sbx.ErrExited)
	},
}

// A report is what the caller of one call was told, without what takes much memory.
type report struct {
	kind
	mark     string
	hung     bool
	returned bool // a result
	lost     bool // its sandbox
	delivery sbx.Delivery
	attempts int // that were not certainly without a begin
	text     string
	problem  string // that shows without the marks
}

// An accident tells whether a sandbox may have been lost in a way that the call which ran there had no part in. It is nil where
// that can't be.
type accident func(*sbx.SandboxLostError) bool

// A worker that gets no time to run is taken for one that was stopped, if the lease is short.
func silenced(lost *sbx.SandboxLostError) bool {
	return strings.Contains(lost.Error(), "gave no sign of life")
}

func shot(lost *sbx.SandboxLostError) bool { return causes["kill"](lost) }

// reportOf reads what a call returned.
func reportOf(k kind, mark, result string, err error, happens accident) report {
	r := report{kind: k, mark: mark, returned: err == nil}
	if err == nil {
		if result != mark {
			r.problem = fmt.Sprintf("the result of another call, %q", result)
		}
		return r
	}
	r.text, _, _ = strings.Cut(err.Error(), "\n")
	var call *sbx.CallError
	if !errors.As(err, &call) {
		r.problem = "its error is no CallError"
		return r
	}
	r.delivery = call.Delivery
	furthest := sbx.NotBegun
	for _, attempt := range call.Attempts {
		if attempt.Delivery == sbx.Failed || furthest == sbx.NotBegun {
			furthest = attempt.Delivery
		}
		if attempt.Delivery != sbx.NotBegun {
			r.attempts++
		}
	}
	var lost *sbx.SandboxLostError
	r.lost = errors.As(err, &lost)
	switch {
	case furthest != call.Delivery:
		r.problem = fmt.Sprintf("its attempts came to %q", furthest)
	case r.lost && r.delivery != sbx.MayHaveRun:
		r.problem = "its sandbox was lost while it ran"
	case r.lost && happens != nil && happens(lost):
	case r.lost && !r.guilty():
		r.problem = "it lost its sandbox, which nothing else was to end"
	case r.lost && !causes[r.end](lost):
		r.problem = "the error does not tell how the sandbox ended"
	case !r.lost:
		r.problem = r.misfit(err, happens)
	}
	return r
}

// misfit says why such a call can't have such an error while its sandbox lives; empty if it can.
func (r *report) misfit(err error, happens accident) string {
	impatient := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sbx.ErrTimeout)
	var panicked *sbx.PanicError
	switch {
	case r.hasty && impatient:
	case happens != nil && r.delivery == sbx.NotBegun: // to the sandbox before it was ready
	case r.end == "fail" && r.delivery == sbx.Failed && strings.Contains(err.Error(), errFailed.Error()):
	case r.end == "panic" && r.delivery == sbx.Failed && errors.As(err, &panicked) && panicked.Value == r.mark && !panicked.Elsewhere:
	default:
		return "nothing that happened to it ends so"
	}
	return ""
}

// judge says what is wrong with what the caller was told, now that all marks are there; empty if it is true.
func (r *report) judge(marks int, happens accident) string {
	runs := r.retries + 1
	switch {
	case r.hung:
		return "it did not return"
	case r.problem != "":
		return r.problem
	case marks > runs:
		return fmt.Sprintf("it ran %d times; at most %d are allowed", marks, runs)
	case r.returned && marks == 0:
		return "it has a result, and did not run"
	case r.returned:
		if r.guilty() && (r.ends == 0 || marks <= r.ends) {
			return fmt.Sprintf("it has a result after %d runs, and should have ended its sandbox", marks)
		}
	case r.delivery == sbx.NotBegun && marks > 0:
		return fmt.Sprintf("it ran %d times, and is reported as not begun", marks)
	case r.delivery == sbx.Failed && marks == 0:
		return "it did not run, and is reported as failed"
	case marks > r.attempts:
		return fmt.Sprintf("it ran %d times, and %d attempts are reported", marks, r.attempts)
	case happens != nil: // it may have been lost between its begin and its first statement
	case marks < r.attempts:
		return fmt.Sprintf("it ran %d times, and is reported to have begun %d times", marks, r.attempts)
	case r.guilty() && !r.hasty && marks != runs:
		return fmt.Sprintf("it ran %d times and failed; %d times are asked for", marks, runs)
	}
	return ""
}
