package sbx

import (
	"context"
	"io"
	"log/slog"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// Log returns the logger of the call in which a function runs. What it logs arrives at the handler of the session's
// [Logger] with its time, level and attributes, and with the attributes "sandbox", "function" and "call" (which is
// [CallInfo].Call). Outside of a call, and under Local, it returns slog.Default().
//
// Values of the kinds that package slog has keep them: texts, numbers, booleans, times, durations and groups. A
// slog.LogValuer is asked in the sandbox. Anything else arrives as its text. A record has at most 256 attributes, groups
// in 16 groups, and 64 KiB of texts, each of at most 16 KiB; what is beyond that is cut off, which an attribute "!CUT" says.
// There is no source position.
//
// Logging never waits. Records that were logged before the function returned are in the queue for the handler before the
// call's result is there; those of a sandbox that is lost may be lost with it. If a function logs faster than records are
// taken, the newest are dropped, and a record in their place says how many.
//
// The logger may be used by several goroutines, and after the function has returned. Records below the level that the
// session takes are not sent, and cost next to nothing: see [LogLevel].
//
// slog.Default() in a sandbox is what it is in any program: it prints to standard error, and arrives as lines.
func Log(ctx context.Context) *slog.Logger {
	if logger := callinfo.Logger(ctx); logger != nil {
		return logger
	}
	return slog.Default()
}

// Logger takes what functions log through [Log] and what they print, and the session's own messages. Without it that is
// slog.Default() as it is when the session opens. slog.New(slog.DiscardHandler) turns it all off.
//
// What a function prints is a record a line (of 64 KiB at most; a longer one arrives in pieces) of level Info, with the
// attributes "sandbox" and "stream", which is "stdout" or "stderr". Standard error is no warning: much of what is printed there
// is progress. While exactly one call runs in the sandbox, lines have the attributes "function" and "call" too. They come
// on another way than results, so a line that was printed just before the function returned may lack them, or have
// those of the next call; use [Log] where that matters.
//
// One goroutine of the session calls the handler with all of these, and no record waits for another sandbox's function.
// A handler that is slow makes functions wait that print, once 256 KiB of a sandbox wait; records of Log are dropped, once
// 4 MiB of a sandbox wait. Nothing else waits for the handler. [Session.Close] waits until it has all records: five
// seconds at most, and no longer than half a second for one record.
func Logger(logger *slog.Logger) OpenOption {
	return openOption(func(c *openConfig) {
		if logger == nil {
			c.errs = append(c.errs, &OptionError{Option: "Logger", Reason: "is nil; slog.New(slog.DiscardHandler) logs nothing"})
		}
		c.logger = logger
	})
}

// LogLevel sets the lowest level of what functions log and print; what they print has level Info. The handler of the [Logger]
// has a level too: a record must have both. Without it that alone counts.
//
// A sandbox learns at its start what the lowest level is, and sends nothing below. When level changes later, as a
// slog.LevelVar may, a higher one holds at once and a lower one for sandboxes that start afterwards.
func LogLevel(level slog.Leveler) OpenOption {
	return openOption(func(c *openConfig) {
		if level == nil {
			c.errs = append(c.errs, &OptionError{Option: "LogLevel", Reason: "is nil; leave it out for the level of the Logger's handler"})
		}
		c.level = level
	})
}

// Output gives the writers that take what is printed in a sandbox, byte for byte, instead of records a line. What
// functions log through [Log] still goes to the [Logger].
//
// writers is called once for each sandbox before it starts, with its id, which is [CallInfo].Sandbox and the attribute
// "sandbox" of records; it may be called by several goroutines at a time. A writer that is nil drops what is printed.
// Each is called by one goroutine at a time, also if one is both stdout and stderr of a sandbox; whether sandboxes share
// writers is up to writers. A Write that blocks makes functions wait that print, and nothing else. After its first
// error, or when it calls runtime.Goexit, a writer is not used again, and a record says so. Writers are not closed; none is called after [Session.Close] has
// returned, unless its Write took longer than half a second. A sandbox's start waits for writers, and Close for the start: writers must
// not call Close, nor wait for a call.
func Output(writers func(sandbox string) (stdout, stderr io.Writer)) OpenOption {
	return openOption(func(c *openConfig) {
		if writers == nil {
			c.errs = append(c.errs, &OptionError{Option: "Output", Reason: "is nil; leave it out for records of what is printed"})
		}
		c.output = writers
	})
}

// writers returns what takes the output of a sandbox; nil if records do.
func (c *openConfig) writers(sandbox string) *launch.Writers {
	if c.output == nil {
		return nil
	}
	stdout, stderr := c.output(sandbox)
	return &launch.Writers{Stdout: stdout, Stderr: stderr}
}
