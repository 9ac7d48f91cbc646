package sbx

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// maxProfileName bounds the name of a profile, in bytes.
const maxProfileName = 200

// ErrNoCall is wrapped by the error of an operation on a call that is not under way in the session: it has ended, say.
var ErrNoCall = errors.New("the session has no such call under way")

// ErrNoSandbox is wrapped by the error of an operation on a sandbox that the session does not have, or has no more.
var ErrNoSandbox = errors.New("the session has no such sandbox")

// Profile takes a profile of the worker in a sandbox while calls run there, in the format of go tool pprof. name is one of
// runtime/pprof: "goroutine", "heap", "allocs", "block", "mutex", "threadcreate", or one that the program made; or it is "cpu" or
// "trace" (for go tool trace), which record for as long as duration says, at most ten minutes; for others duration is not used.
//
// A sandbox's id is in log records, in [Info], in [CallError] and in [Call.Sandbox]. One that records is taken at a time in each. When ctx
// ends first Profile returns its error. What comes from a sandbox is its own word; read it with tools that expect as much.
func (s *Session) Profile(ctx context.Context, sandbox, name string, duration time.Duration) ([]byte, error) {
	if ctx == nil {
		return nil, fmt.Errorf("sbx: profile: %w", errNilContext)
	}
	if !s.opened() {
		return nil, fmt.Errorf("sbx: profile: %w", errNotOpened)
	}
	s.mu.Lock()
	sb, closed := s.live[sandbox], s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, fmt.Errorf("sbx: profile of sandbox %s: %w", sandbox, ErrClosed)
	case sb == nil:
		return nil, fmt.Errorf("sbx: profile of sandbox %s: %w", sandbox, ErrNoSandbox)
	case name == "" || len(name) > maxProfileName || !utf8.ValidString(name):
		return nil, &OptionError{Option: "Profile", Reason: fmt.Sprintf("is asked for a profile named %.100q; a name is UTF-8 of 1 to %d bytes", name, maxProfileName)}
	case duration < 0:
		return nil, &OptionError{Option: "Profile", Reason: fmt.Sprintf("is asked to record for %v; give no negative duration", duration)}
	}
	data, err := profile(ctx, sb, name, duration, 0)
	if errors.Is(err, ErrNoSandbox) && !s.isOpen() { // which stopped it
		err = fmt.Errorf("sbx: profile of sandbox %s: %w", sandbox, ErrClosed)
	}
	return data, err
}

// profile asks a sandbox's worker. debug is as in runtime/pprof.
func profile(ctx context.Context, sb *sandbox, name string, duration time.Duration, debug int) ([]byte, error) {
	if ctx == nil {
		return nil, fmt.Errorf("sbx: profile: %w", errNilContext)
	}
	data, err := sb.worker.Profile(ctx, name, duration, debug)
	var lost *launch.LostError
	switch {
	case err != nil && isDone(ctx):
		err = contextError(ctx)
	case !errors.As(err, &lost):
	case sb.killed.Load() && lost.Crash == nil: // it was there when it was looked up
		err = fmt.Errorf("%w: %w", ErrNoSandbox, errStopped)
	default:
		err = fmt.Errorf("%w: %w", ErrNoSandbox, &endedError{endingOf(lost)})
	}
	if err != nil {
		return nil, fmt.Errorf("sbx: profile %q of sandbox %s: %w", name, sb.id, err)
	}
	return data, nil
}
