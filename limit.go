package sbx

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sandboxfn/sbx/driver"
)

// Resources are limits of a sandbox, for [Limit] and [LimitIfPossible]. A field that is 0 leaves what the driver has as its
// default; package driver/local says which that are for local sandboxes.
type Resources = driver.Resources

// Report says what the sandboxes of a session hold on this machine, what they don't, and why.
type Report = driver.Report

// Isolation is how far the code in a sandbox is from the host.
type Isolation = driver.Isolation

// The levels of isolation, from the weakest to the strongest.
const (
	// NoIsolation is what package driver/process gives: the code can do what the program can.
	NoIsolation = driver.NoIsolation
	// SharedKernel is what the local driver gives: the host's kernel keeps the code apart, and serves its system calls.
	SharedKernel = driver.SharedKernel
	// OwnKernel is a kernel of the sandbox's own in a process of the host's.
	OwnKernel = driver.OwnKernel
	// Machine is a virtual machine, or a machine of the sandbox's own.
	Machine = driver.Machine
)

// Limit bounds what a sandbox uses. What r sets must be held: where the driver can't do that on this machine, Open and calls
// fail with a [*driver.LimitError] that names the limit and the remedies (see [Session.Report] for what can be held).
//
// CPUs must be from 0.01 to 10,000, MemoryMiB at least 32, Processes and OpenFiles at least 32, DiskMiB at least 1, Inodes at least 16.
// Where limits are given several times, the later one counts, for each field that it sets, whether it is of Limit or
// of LimitIfPossible. Functions with other limits run in other sandboxes.
//
// A function that needs more memory is killed, and its call fails with [ErrOutOfMemory]; one that needs more processor time
// is slower; all else that is used up fails in the function with the error that the system has for it. What serves calls and commands in the sandbox, the worker, is under the same
// limits: where commands use up all Processes, threads included, it can fail to get a thread, and then the sandbox ends, and its error says so. The Go runtime in the sandbox knows of the first two: local
// sandboxes have the variables GOMAXPROCS and GOMEMLIMIT set accordingly, unless [Env] sets them.
func Limit(r Resources) SandboxOption {
	return limitOption("Limit", r, func(s *spec) {
		s.limits, s.soft = r.Or(s.limits), s.soft.Without(r.Names()...)
	})
}

// LimitIfPossible is [Limit] for limits that are held where the driver can do that; where it can't, the sandbox goes without,
// and the session's [Logger] gets one warning for each limit.
func LimitIfPossible(r Resources) SandboxOption {
	return limitOption("LimitIfPossible", r, func(s *spec) {
		s.soft, s.limits = r.Or(s.soft), s.limits.Without(r.Names()...)
	})
}

func limitOption(name string, r Resources, set func(*spec)) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if reason := checkResources(r); reason != "" {
			return &OptionError{Option: name, Reason: reason}
		}
		set(s)
		return nil
	})
}

// checkResources says what is wrong with r. What is below the least can't work, what is above the most was not meant.
func checkResources(r Resources) string {
	if r.CPUs != 0 && !(r.CPUs >= 0.01 && r.CPUs <= 10_000) { // NaN is not
		return fmt.Sprintf("has CPUs %v; give 0.01 to 10000, or 0 for no limit", r.CPUs)
	}
	for _, field := range []struct {
		name               string
		value, least, most int
	}{
		{"MemoryMiB", r.MemoryMiB, 32, 1 << 30},
		{"Processes", r.Processes, 32, 1 << 22},
		{"OpenFiles", r.OpenFiles, 32, 1 << 30},
		{"DiskMiB", r.DiskMiB, 1, 1 << 30},
		{"Inodes", r.Inodes, 16, 1 << 30},
	} {
		if field.value != 0 && (field.value < field.least || field.value > field.most) {
			return fmt.Sprintf("has %s %d; give %d to %d, or 0 for the driver's default", field.name, field.value, field.least, field.most)
		}
	}
	return ""
}

// MinIsolation refuses drivers whose sandboxes are weaker than level: Open fails with an [*IsolationError]. Without it, any
// driver will do that the program asks for.
func MinIsolation(level Isolation) OpenOption {
	return openOption(func(c *openConfig) {
		if level < NoIsolation || level > Machine {
			c.errs = append(c.errs, &OptionError{Option: "MinIsolation", Reason: fmt.Sprintf("is %v; give one of the levels from NoIsolation to Machine", level)})
		}
		c.minIsolation = level
	})
}

// IsolationError is the error of Open where the driver's sandboxes are weaker than [MinIsolation] asks for.
type IsolationError struct {
	// Driver is the driver's name.
	Driver string
	// Level is what the driver gives, Min what was asked for.
	Level, Min Isolation
}

func (e *IsolationError) Error() string {
	remedy := "leave sbx.Driver out for local sandboxes"
	switch {
	case e.Min == OwnKernel:
		remedy = "use the local driver with Options.GVisor"
	case e.Min > OwnKernel:
		remedy = "use a driver that gives it, which none of this module does"
	}
	return fmt.Sprintf("the %s driver's level of isolation is %q, and MinIsolation asks for %q; %s, or ask for less", e.Driver, e.Level, e.Min, remedy)
}

// Report says what the session's sandboxes hold on this machine: the level of isolation, and which limits can be held, by which
// mechanism, or why not. It costs nothing, and answers after Close, too. That of a session that was not opened is empty.
func (s *Session) Report() Report {
	if !s.opened() {
		return Report{}
	}
	return s.backend.Report()
}

// accept refuses a session whose driver does not give what its options ask for.
func (s *Session) accept() error {
	report := s.backend.Report()
	if report.Isolation < s.config.minIsolation {
		return &IsolationError{Driver: report.Driver, Level: report.Isolation, Min: s.config.minIsolation}
	}
	return report.Check(s.config.spec.limits)
}

// warnOfLimits logs, once for each, which limits a sandbox goes without.
func (s *Session) warnOfLimits(soft Resources) {
	report := s.backend.Report()
	for _, name := range soft.Names() {
		c := report.Capability(name)
		if c.Held {
			continue
		}
		s.mu.Lock()
		known := s.warned[name]
		s.warned[name] = true
		s.mu.Unlock()
		if !known {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "sandboxes go without a limit that can't be held here",
				slog.String("session", s.id), slog.String("driver", report.Driver), slog.String("limit", name),
				slog.String("reason", c.Why), slog.String("remedies", strings.Join(c.Remedies, ", or ")))
		}
	}
}
