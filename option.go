package sbx

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/pool"
)

// OpenOption configures a session. Every [SandboxOption] is one: it gives the default for the session's sandboxes.
type OpenOption interface{ applyOpen(*openConfig) }

// FunctionOption configures a wrapped function. Every [SandboxOption] is one: it overrides the session's default for the
// sandboxes that this function runs in.
type FunctionOption interface{ applyFunction(*functionConfig) }

// SandboxOption describes a sandbox. It may be given to [Open] and to [Session.Function] and its siblings.
//
// Values merge by these rules: tags append, environment variables merge by key, secrets merge by name and must not conflict, mounts merge by target,
// limits by field, everything else replaces; the later value wins.
type SandboxOption interface {
	OpenOption
	FunctionOption
}

// MapOption configures one run over many inputs.
type MapOption interface{ applyMap(*mapConfig) }

// defaultLease is long enough for a machine that is busy with other things, and short enough to wait for.
const (
	defaultLease = 30 * time.Second
	minLease     = 100 * time.Millisecond
)

// most is the highest number of sandboxes, and of inputs on their way, that can be asked for.
const most = 1_000_000

type openConfig struct {
	spec         spec
	driver       driver.Driver
	maxSandboxes int
	minSandboxes int
	startsAtOnce int
	lease        time.Duration
	watchdog     time.Duration // 0 for none
	interceptors []Interceptor
	logger       *slog.Logger
	level        slog.Leveler // nil: what the logger's handler is enabled for
	output       func(sandbox string) (stdout, stderr io.Writer)
	builtWorker  bool
	workerFile   string
	autoBuild    bool
	minIsolation Isolation
	errs         []error
}

type functionConfig struct {
	spec    spec
	timeout time.Duration
	retries int
	retryIf func(error) bool
	backoff backoff
	memory  int // in MiB: up to how much a run has that others were short of it; 0 if they all have the same
	hedge   time.Duration
	version string // of the code; empty for a hash of it
	errs    []error
}

type mapConfig struct {
	failFast bool
	ahead    int                                 // 0 for what keeps every sandbox busy
	journal  func(*function) (mapJournal, error) // opens it; nil for none
	budget   *budget
	show     func(*run) mapDisplay // begins to; nil for nothing
	total    int                   // inputs; 0 if that is not known
	errs     []error
}

// spec describes a sandbox, and how it is used.
type spec struct {
	env         map[string]string
	secrets     secrets
	tags        []string
	mounts      map[string]driver.Mount // by target
	image       string                  // empty for what the driver has
	concurrency int                     // 0 is one
	maxUses     int
	maxAge      time.Duration
	idleTime    time.Duration
	fresh       bool      // one call, in a sandbox that is there already
	limits      Resources // that must be held
	soft        Resources // that are held where possible; no field is set in both
}

func (s spec) clone() spec {
	s.env, s.tags, s.mounts = maps.Clone(s.env), slices.Clone(s.tags), maps.Clone(s.mounts)
	return s
}

// environ is the environment, sorted.
func (s spec) environ() []string {
	environ := make([]string, 0, len(s.env))
	for key, value := range s.env {
		environ = append(environ, key+"="+value)
	}
	slices.Sort(environ)
	return environ
}

// class stands for a spec, and is equal for specs that describe the same sandbox.
type class struct {
	// spec holds the environment, the tags, and of each mount the target and the source: no part of them has a NUL, which ends each part
	// here, or is empty, which separates the lists.
	spec         string
	image        string
	secrets      secrets
	limits       pool.Limits
	must, should Resources
}

const (
	// aheadOfEach is how many calls wait in a busy sandbox for each that runs there, so that short calls don't wait for a round
	// trip each; maxAhead bounds their number.
	aheadOfEach = 8
	maxAhead    = 512
)

func (s spec) class() class {
	var text strings.Builder
	for _, part := range slices.Concat(s.environ(), []string{""}, s.tags, []string{""}, s.mountParts()) {
		text.WriteString(part)
		text.WriteByte(0)
	}
	concurrency := max(s.concurrency, 1)
	limits := pool.Limits{
		Concurrency: concurrency, Ahead: min(aheadOfEach*concurrency, maxAhead),
		Uses: s.maxUses, Age: s.maxAge, Idle: s.idleTime, Spare: s.fresh,
	}
	if s.fresh {
		limits.Uses, limits.Ahead = 1, 0
	}
	return class{text.String(), s.image, s.secrets, limits, s.limits, s.soft}
}

// check finds what does not go together, whatever the order of the options.
func (s spec) check() error {
	switch {
	case s.fresh && s.concurrency > 1:
		return &OptionError{Option: "Fresh", Reason: fmt.Sprintf("and Concurrency(%d) contradict each other: give Concurrency(1) with it, or leave one out", s.concurrency)}
	case s.fresh && s.maxUses > 1:
		return &OptionError{Option: "Fresh", Reason: fmt.Sprintf("and MaxUses(%d) contradict each other: give MaxUses(1) with it, or leave one out", s.maxUses)}
	}
	return nil
}

// parse returns the environment, the tags and the mounts.
func (c class) parse() (environ, tags []string, mounts []driver.Mount) {
	parts := strings.Split(strings.TrimSuffix(c.spec, "\x00"), "\x00")
	first := slices.Index(parts, "")
	second := first + 1 + slices.Index(parts[first+1:], "")
	return parts[:first:first], parts[first+1 : second : second], parseMounts(parts[second+1:])
}

type openOption func(*openConfig)

func (o openOption) applyOpen(c *openConfig) { o(c) }

type functionOption func(*functionConfig)

func (o functionOption) applyFunction(c *functionConfig) { o(c) }

type mapOption func(*mapConfig)

func (o mapOption) applyMap(c *mapConfig) { o(c) }

// sandboxOption changes a spec; it returns an error if the option's value makes no sense.
type sandboxOption func(*spec) error

func (o sandboxOption) applyOpen(c *openConfig) {
	if err := o(&c.spec); err != nil {
		c.errs = append(c.errs, err)
	}
}

func (o sandboxOption) applyFunction(c *functionConfig) {
	if err := o(&c.spec); err != nil {
		c.errs = append(c.errs, err)
	}
}

// apply calls each option, and makes an error of one that is nil.
func apply[O any](opts []O, one func(O)) (err error) {
	for i, opt := range opts {
		if v := reflect.ValueOf(opt); !v.IsValid() || v.Kind() == reflect.Func && v.IsNil() {
			err = errors.Join(err, &OptionError{Option: fmt.Sprintf("option %d", i), Reason: "is nil; leave it out"})
			continue
		}
		one(opt)
	}
	return err
}

// Driver chooses where sandboxes run. Without it they run on this machine, in Linux namespaces (package driver/local).
// The session doesn't change d, so several sessions may have the same one.
func Driver(d driver.Driver) OpenOption {
	return openOption(func(c *openConfig) {
		if d == nil {
			c.errs = append(c.errs, &OptionError{Option: "Driver", Reason: "is nil; leave it out for local sandboxes"})
		}
		c.driver = d
	})
}

// DriverVariable is the environment variable that [DriverFromEnv] reads.
const DriverVariable = "SBX_DRIVER"

// DriverFromEnv lets the program's user choose where sandboxes run, by the environment variable SBX_DRIVER: the name of a driver, "process", or a URL
// with its parameters, "docker:?image=debian:12", which the driver's package documents. The program has the drivers whose packages it
// imports, and the local one. Without the variable, or where it is empty, the option does nothing.
func DriverFromEnv() OpenOption {
	return openOption(func(c *openConfig) {
		text := os.Getenv(DriverVariable)
		if text == "" {
			return
		}
		d, err := driver.FromURL(text)
		if err != nil {
			c.errs = append(c.errs, &OptionError{Option: "DriverFromEnv", Reason: fmt.Sprintf("has a wrong %s: %v", DriverVariable, err)})
		}
		c.driver = d
	})
}

// MaxSandboxes bounds how many sandboxes the session has at a time, and with that how many calls run at a time. n must be
// from 1 to 1,000,000. Without it there are as many as the Go scheduler uses cores (runtime.GOMAXPROCS).
func MaxSandboxes(n int) OpenOption {
	return openOption(func(c *openConfig) {
		if n < 1 || n > most {
			c.errs = append(c.errs, &OptionError{Option: "MaxSandboxes", Reason: fmt.Sprintf("is %d; give 1 to %d", n, most)})
		}
		c.maxSandboxes = n
	})
}

// MinSandboxes has the session keep n sandboxes of its default kind, those that the options of [Open] describe, from 1 to what [MaxSandboxes] allows: they are
// started in the background from Open on, replaced when they are lost, and not stopped by [IdleTime]; [MaxAge] and [MaxUses] replace them. Starts that
// fail are tried again, at most 30 seconds later, logged once, and fail no call. Sandboxes of another kind, for a function
// with options of its own, take the place of a kept one only if there is none of that kind and no other room; the kept one is started again when
// there is room. Without it sandboxes are started when calls need them.
func MinSandboxes(n int) OpenOption {
	return openOption(func(c *openConfig) {
		if n < 1 || n > most {
			c.errs = append(c.errs, &OptionError{Option: "MinSandboxes", Reason: fmt.Sprintf("is %d; give 1 to what MaxSandboxes allows", n)})
		}
		c.minSandboxes = n
	})
}

// startsPerCore is a choice by measurement, see docs/design.md.
const startsPerCore = 8

// StartsAtOnce bounds how many sandboxes of the session's pool are being started at the same time, whatever for; further starts wait. n must be from 1 to 1,000,000. Without it that
// is eight for each core that the Go scheduler uses, which keeps a machine busy on which sandboxes are local; give more where a driver waits for other machines.
func StartsAtOnce(n int) OpenOption {
	return openOption(func(c *openConfig) {
		if n < 1 || n > most {
			c.errs = append(c.errs, &OptionError{Option: "StartsAtOnce", Reason: fmt.Sprintf("is %d; give 1 to %d", n, most)})
		}
		c.startsAtOnce = n
	})
}

// Lease bounds how long a session and the worker in a sandbox may hear nothing from each other; they exchange signs of life
// several times in that time. A worker that is silent for longer, because something stopped it, say, is given up:
// its calls fail with a [SandboxLostError] that wraps [ErrSilent], and its sandbox is stopped. A worker whose session is
// silent for longer, because the program was stopped, ends itself. d must be 100 milliseconds or more; a machine that is busy needs
// seconds. Where thousands of busy goroutines keep a side from its messages, silence may last longer: by ten times as long as goroutines wait there for
// a processor, about. Without it that is 30 seconds. A start has a minute until the program's init functions are done; then the lease holds.
func Lease(d time.Duration) OpenOption {
	return openOption(func(c *openConfig) {
		if d < minLease {
			c.errs = append(c.errs, &OptionError{Option: "Lease", Reason: fmt.Sprintf("is %v; give %v or more", d, minLease)})
		}
		c.lease = d
	})
}

// Env sets an environment variable of the sandbox. Nothing of this program's environment is passed on by itself, neither
// PATH nor HOME: name programs by their paths ("/bin/sh"), or set what they need. The whole environment of a local sandbox, secrets
// included, has 96 KiB at most.
func Env(key, value string) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if err := checkVariable("Env", key); err != nil {
			return err
		}
		if strings.Contains(value, "\x00") {
			return &OptionError{Option: "Env", Reason: fmt.Sprintf("key %q: its value holds a NUL byte, which no variable can; give it as a file (Sandbox.WriteFile)", key)} // and may be secret
		}
		if source, found := s.secrets.find(key); found {
			return secretConflict(key, source.String(), "sbx.Env")
		}
		if s.env == nil {
			s.env = map[string]string{}
		}
		s.env[key] = value
		return nil
	})
}

// checkVariable refuses what is no name of a variable.
func checkVariable(option, key string) error {
	switch {
	case key == "" || strings.ContainsAny(key, "=\x00"):
		name, _, _ := strings.Cut(key, "=") // what follows may be a value, and secret
		return &OptionError{Option: option, Reason: fmt.Sprintf("key %q… is not the name of a variable; give it and the value apart", name)}
	case strings.HasPrefix(key, "SBX_"):
		return &OptionError{Option: option, Reason: fmt.Sprintf("key %q: names that begin with SBX_ are kept for sbx itself", key)}
	}
	return nil
}

// Tags adds tags to the sandbox. Drivers that keep sandboxes find them by tag.
func Tags(tags ...string) SandboxOption {
	tags = slices.Clone(tags) // the caller's to change, as in all that take several
	return sandboxOption(func(s *spec) error {
		for _, tag := range tags {
			if tag == "" || strings.Contains(tag, "\x00") {
				return &OptionError{Option: "Tags", Reason: fmt.Sprintf("given %.100q; give text without NUL bytes", tag)}
			}
		}
		s.tags = append(s.tags, tags...)
		return nil
	})
}

// maxConcurrency is the highest number of calls that can run in a sandbox.
const maxConcurrency = 1000

// Concurrency lets n calls run in a sandbox at the same time, from 1 to 1,000; without it that is one. They share a process:
// they see each other's package variables and files, and when one of them ends the process, or has to be killed because it
// ignores the end of its context, the others are lost too.
func Concurrency(n int) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if n < 1 || n > maxConcurrency {
			return &OptionError{Option: "Concurrency", Reason: fmt.Sprintf("is %d; give 1 to %d", n, maxConcurrency)}
		}
		s.concurrency = n
		return nil
	})
}

// MaxUses stops a sandbox after n calls, at least 1; the next call gets another one. MaxUses(1) gives every call a sandbox of its own.
// Without it sandboxes are used again. No call is cut short: if [MaxSandboxes] leaves no room for another sandbox, the next call
// waits until all calls of this one have ended, as with [MaxAge].
func MaxUses(n int) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if n < 1 {
			return &OptionError{Option: "MaxUses", Reason: fmt.Sprintf("is %d; give 1 or more", n)}
		}
		s.maxUses = n
		return nil
	})
}

// MaxAge stops a sandbox that is older than d, above 0, as soon as no call runs in it. Without it age does not matter.
func MaxAge(d time.Duration) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if d <= 0 {
			return &OptionError{Option: "MaxAge", Reason: fmt.Sprintf("is %v; give a time above 0", d)}
		}
		s.maxAge = d
		return nil
	})
}

// IdleTime stops a sandbox in which no call has run for d, above 0. Without it sandboxes stay until the session closes, or
// until the sandbox of another kind needs their place.
func IdleTime(d time.Duration) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if d <= 0 {
			return &OptionError{Option: "IdleTime", Reason: fmt.Sprintf("is %v; give a time above 0", d)}
		}
		s.idleTime = d
		return nil
	})
}

// Fresh gives every call a sandbox of its own, in which no other call has run or will. Sandboxes of calls that run are replaced while they run, within [MaxSandboxes],
// so that the next calls find theirs ready; what was not used stays ready. So give MaxSandboxes room for twice as many as
// calls that run at a time. It is for calls that must not see what others left: their files, processes, package variables. What it costs is in docs/performance.md.
// Fresh contradicts [Concurrency] and [MaxUses] above one, which is an error. It has no meaning for [Session.Sandbox].
func Fresh() SandboxOption {
	return sandboxOption(func(s *spec) error {
		s.fresh = true
		return nil
	})
}

// Join makes one option of several; they apply in order.
func Join(opts ...SandboxOption) SandboxOption { return joined(slices.Clone(opts)) }

type joined []SandboxOption

func (j joined) applyOpen(c *openConfig) {
	if err := apply(j, func(o SandboxOption) { o.applyOpen(c) }); err != nil {
		c.errs = append(c.errs, err)
	}
}

func (j joined) applyFunction(c *functionConfig) {
	if err := apply(j, func(o SandboxOption) { o.applyFunction(c) }); err != nil {
		c.errs = append(c.errs, err)
	}
}

// Timeout bounds how long the function may run in the sandbox, each time that it runs, with the decoding of its argument and the
// encoding of its result; waiting for a sandbox doesn't count. When the time is up the function's context ends with the cause [ErrTimeout]. If the function then returns an
// error, whichever, the call fails with ErrTimeout, which wraps the function's own error too if that is not the context's
// alone;
// if it returns a result within a second, the result counts; if it does not return, it loses its sandbox and the call fails
// with ErrTimeout. d must be above 0. Without it there is no bound but the caller's context.
func Timeout(d time.Duration) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if d <= 0 {
			c.errs = append(c.errs, &OptionError{Option: "Timeout", Reason: fmt.Sprintf("is %v; give a time above 0", d)})
		}
		c.timeout = d
	})
}

// FailFast ends the run at the first call that fails: calls that run are cancelled, and no further input is taken.
func FailFast() MapOption {
	return mapOption(func(c *mapConfig) { c.failFast = true })
}

// Ahead bounds how many inputs may be taken whose results have not been handed out. n must be from 1 to 1,000,000. It bounds the
// memory of a run, and how many calls of it run at a time. Without it that is nine for each call that can run at a time, so
// that short calls find the next one waiting in their sandbox.
func Ahead(n int) MapOption {
	return mapOption(func(c *mapConfig) {
		if n < 1 || n > most {
			c.errs = append(c.errs, &OptionError{Option: "Ahead", Reason: fmt.Sprintf("is %d; give 1 to %d", n, most)})
		}
		c.ahead = n
	})
}

func newOpenConfig(opts []OpenOption) (openConfig, error) {
	c := openConfig{maxSandboxes: runtime.GOMAXPROCS(0), startsAtOnce: startsPerCore * runtime.GOMAXPROCS(0), lease: defaultLease, logger: slog.Default()}
	err := apply(opts, func(o OpenOption) { o.applyOpen(&c) })
	c.errs = append(c.errs, err, c.spec.check())
	if c.maxSandboxes >= 1 && c.minSandboxes > c.maxSandboxes {
		c.errs = append(c.errs, &OptionError{Option: "MinSandboxes", Reason: fmt.Sprintf("is %d, above the maximum of %d; raise MaxSandboxes", c.minSandboxes, c.maxSandboxes)})
	}
	return c, errors.Join(c.errs...)
}

func newFunctionConfig(defaults spec, opts []FunctionOption) (functionConfig, error) {
	c := functionConfig{spec: defaults.clone(), backoff: defaultBackoff}
	err := apply(opts, func(o FunctionOption) { o.applyFunction(&c) })
	return c, errors.Join(append(append(c.errs, c.checkRetries()...), err, c.spec.check())...)
}

// newSandboxSpec is a sandbox of opts over the defaults.
func newSandboxSpec(defaults spec, opts []SandboxOption) (spec, error) {
	functionOpts := make([]FunctionOption, len(opts))
	for i, opt := range opts {
		functionOpts[i] = opt
	}
	c, err := newFunctionConfig(defaults, functionOpts)
	return c.spec, err
}

func newMapConfig(ahead int, opts []MapOption) (mapConfig, error) {
	var c mapConfig
	err := apply(opts, func(o MapOption) { o.applyMap(&c) })
	if c.ahead == 0 {
		c.ahead = ahead
		if c.journal != nil {
			c.ahead += journalAhead
		}
	}
	return c, errors.Join(append(c.errs, err)...)
}
