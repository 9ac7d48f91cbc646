package sbx_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAbsurdLimitsAreRefused(t *testing.T) {
	for _, r := range []sbx.Resources{
		{CPUs: -1}, {CPUs: 0.001}, {CPUs: 1e9}, {CPUs: math.NaN()}, {CPUs: math.Inf(1)}, {CPUs: math.Inf(-1)},
		{MemoryMiB: -1}, {MemoryMiB: 1}, {MemoryMiB: math.MaxInt}, {Processes: -1}, {Processes: 3}, {Processes: math.MaxInt},
		{OpenFiles: -1}, {OpenFiles: 3}, {OpenFiles: math.MaxInt}, {DiskMiB: -1}, {DiskMiB: math.MaxInt}, {Inodes: -1}, {Inodes: 1},
		{Inodes: math.MaxInt}, {CPUs: 1, MemoryMiB: math.MinInt},
	} {
		var option *sbx.OptionError
		for name, opt := range map[string]sbx.SandboxOption{"Limit": sbx.Limit(r), "LimitIfPossible": sbx.LimitIfPossible(r)} {
			_, err := sbx.Open(t.Context(), opt)
			require.ErrorAs(t, err, &option, "%+v", r)
			assert.Equal(t, name, option.Option)
			require.ErrorAs(t, sbxtest.Open(t).Function(Double, opt).Err(), &option)
		}
	}
}

// limiting is a driver that says it holds all limits, and keeps what it was asked for.
type limiting struct {
	driver.Driver
	mu    sync.Mutex
	asked []driver.Spec
}

type limitingSession struct {
	driver.Session
	driver *limiting
}

func (d *limiting) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := d.Driver.Open(ctx, spec)
	return limitingSession{session, d}, err
}

func (s limitingSession) Report() driver.Report {
	report := driver.Report{Driver: "limiting", Isolation: driver.OwnKernel}
	for _, name := range driver.LimitNames() {
		report.Capabilities = append(report.Capabilities, driver.Capability{Name: name, Held: true, By: "a claim"})
	}
	return report
}

func (s limitingSession) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	s.driver.mu.Lock()
	s.driver.asked = append(s.driver.asked, driver.Spec{Limits: spec.Limits, Soft: spec.Soft})
	s.driver.mu.Unlock()
	spec.Limits = driver.Resources{}
	return s.Session.Create(ctx, spec)
}

// Later limits replace earlier ones field by field, whichever kind they are, and each set of limits has sandboxes of its own.
func TestLimitsMerge(t *testing.T) {
	d := &limiting{Driver: inprocess.New(nil)}
	session := sbxtest.Open(t, sbx.Driver(d), sbx.MaxSandboxes(5),
		sbx.Limit(sbx.Resources{CPUs: 1, MemoryMiB: 100, DiskMiB: 10}), sbx.LimitIfPossible(sbx.Resources{Processes: 100}))
	for _, test := range []struct {
		opts []sbx.FunctionOption
		want driver.Spec
	}{
		{nil, driver.Spec{Limits: sbx.Resources{CPUs: 1, MemoryMiB: 100, DiskMiB: 10}, Soft: sbx.Resources{Processes: 100}}},
		{[]sbx.FunctionOption{sbx.Limit(sbx.Resources{MemoryMiB: 200})},
			driver.Spec{Limits: sbx.Resources{CPUs: 1, MemoryMiB: 200, DiskMiB: 10}, Soft: sbx.Resources{Processes: 100}}},
		{[]sbx.FunctionOption{sbx.LimitIfPossible(sbx.Resources{MemoryMiB: 100, Inodes: 50})},
			driver.Spec{Limits: sbx.Resources{CPUs: 1, DiskMiB: 10}, Soft: sbx.Resources{MemoryMiB: 100, Processes: 100, Inodes: 50}}},
		{[]sbx.FunctionOption{sbx.LimitIfPossible(sbx.Resources{OpenFiles: 50}), sbx.Limit(sbx.Resources{OpenFiles: 40, Processes: 50})},
			driver.Spec{Limits: sbx.Resources{CPUs: 1, MemoryMiB: 100, DiskMiB: 10, Processes: 50, OpenFiles: 40}}},
	} {
		for range 2 { // the second finds the first one's sandbox
			_, err := session.Function(Double, test.opts...).Call(t.Context(), 1)
			require.NoError(t, err)
		}
		assert.Equal(t, test.want, d.asked[len(d.asked)-1])
	}
	assert.Len(t, d.asked, 4)
	assert.Equal(t, 4, session.SandboxCount())
}

func TestLimitsThatCantBeHeld(t *testing.T) {
	limit := sbx.Resources{MemoryMiB: 100}
	_, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.Limit(limit))
	var refused *driver.LimitError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "memory", refused.Limit)
	assert.EqualError(t, err, "sbx: open: the inprocess driver can't limit memory here: its workers run in the program itself; to go on, "+
		"use the local driver (the default) on Linux, or ask with sbx.LimitIfPossible, which goes on without the limit")

	handler := &recorder{level: slog.LevelWarn}
	session := sbxtest.Open(t, sbx.Logger(slog.New(handler)), sbx.MaxSandboxes(3))
	_, err = session.Function(Double, sbx.Limit(limit)).Call(t.Context(), 1)
	require.ErrorAs(t, err, &refused)
	var start *sbx.StartError
	require.ErrorAs(t, err, &start, "the function did not begin")

	for i := range 3 {
		n, err := session.Function(Double, sbx.LimitIfPossible(sbx.Resources{MemoryMiB: 100, CPUs: float64(i + 1)})).Call(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
	}
	require.NoError(t, session.Close()) // then the logger has it all
	var limits []string
	for _, record := range handler.of("sandboxes go without a limit that can't be held here") {
		record.Attrs(func(attr slog.Attr) bool {
			switch attr.Key {
			case "limit":
				limits = append(limits, attr.Value.String())
			case "remedies": // and not what was done already
				assert.Equal(t, "use the local driver (the default) on Linux", attr.Value.String())
			}
			return true
		})
	}
	assert.Equal(t, []string{"cpus", "memory"}, limits, "each is said once")
}

// What is to be said of a limit does not hold up the sandbox, nor does what the driver says.
func TestAWarningThatNobodyTakes(t *testing.T) {
	h := newHold()
	defer close(h.release)
	handler := &recorder{hold: h}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Logger(slog.New(handler)), sbx.LimitIfPossible(sbx.Resources{MemoryMiB: 100}))
	<-h.entered
	n, err := session.Function(Double).Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	require.NoError(t, session.Close())
	assert.Empty(t, handler.of("sandboxes go without a limit that can't be held here"), "the handler has the first still")
}

func TestMinIsolation(t *testing.T) {
	_, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MinIsolation(sbx.SharedKernel))
	var weak *sbx.IsolationError
	require.ErrorAs(t, err, &weak)
	assert.Equal(t, sbx.IsolationError{Driver: "inprocess", Level: sbx.NoIsolation, Min: sbx.SharedKernel}, *weak)
	assert.EqualError(t, err, `sbx: open: the inprocess driver's level of isolation is "no isolation", and MinIsolation asks for "shared kernel"; `+
		"leave sbx.Driver out for local sandboxes, or ask for less")
	assert.ErrorContains(t, &sbx.IsolationError{Min: sbx.OwnKernel}, "use the local driver with Options.GVisor")
	assert.ErrorContains(t, &sbx.IsolationError{Min: sbx.Machine}, "none of this module")
	session := sbxtest.Open(t, sbx.Driver(&limiting{Driver: inprocess.New(nil)}), sbx.MinIsolation(sbx.OwnKernel))
	assert.Equal(t, sbx.OwnKernel, session.Report().Isolation)
	_, err = sbx.Open(t.Context(), sbx.Driver(&limiting{Driver: inprocess.New(nil)}), sbx.MinIsolation(sbx.Machine))
	require.ErrorAs(t, err, &weak)
	sbxtest.Open(t, sbx.MinIsolation(sbx.NoIsolation))
	var option *sbx.OptionError
	for _, level := range []sbx.Isolation{-1, sbx.Machine + 1} {
		_, err = sbx.Open(t.Context(), sbx.MinIsolation(level))
		require.ErrorAs(t, err, &option)
	}
}

// One function's memory bomb is its own call's error; calls beside it don't notice.
func TestOutOfItsMemory(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.MinIsolation(sbx.SharedKernel), sbx.MaxSandboxes(2))
	if c := session.Report().Capability(driver.LimitMemory); !c.Held {
		t.Skip(c.Why)
	}
	limited := session.Function(Allocate, sbx.Limit(sbx.Resources{MemoryMiB: 256}), sbx.Env("GOMEMLIMIT", "off"))
	results, err := limited.MapSlice(t.Context(), []int{8, 600, 16, 24})
	assert.Equal(t, []int{8, 0, 16, 24}, results)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, 1, call.Index)
	assert.ErrorContains(t, err, "MemoryMiB of sbx.Limit", "the limit was its own")

	sb := session.Sandbox(sbx.Limit(sbx.Resources{MemoryMiB: 256}), sbx.Env("GOMEMLIMIT", "off"))
	_, err = session.Function(Allocate).In(sb).Call(t.Context(), 600)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	_, later := session.Function(Allocate).In(sb).Call(t.Context(), 1)
	for _, err := range []error{err, later} {
		require.ErrorContains(t, err, "allow the sandbox more by MemoryMiB of sbx.Limit, give", "a sandbox of the program's own has no RetryMemory")
	}
	require.ErrorIs(t, later, sbx.ErrNotRunning)
	n, err := session.Function(Allocate).Call(t.Context(), 600)
	require.NoError(t, err, "the control")
	assert.Equal(t, 600, n)

	n, err = session.Function0(MemoryLimit, sbx.Limit(sbx.Resources{MemoryMiB: 100})).Call(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 90, n)
}

func ExampleLimit() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	remote := session.Function(Double, sbx.Limit(sbx.Resources{Processes: 200, OpenFiles: 100, DiskMiB: 16}))
	fmt.Println(remote.Call(ctx, 21))
	// Output: 42 <nil>
}

func ExampleLimitIfPossible() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	// Where cgroups can't be written, the function runs all the same, and the session's logger gets a warning.
	remote := session.Function(Double, sbx.LimitIfPossible(sbx.Resources{CPUs: 0.5, MemoryMiB: 256}))
	fmt.Println(remote.Call(ctx, 21))
	// Output: 42 <nil>
}

func ExampleMinIsolation() {
	ctx := context.Background()
	_, err := sbx.Open(ctx, sbx.Driver(inprocess.New(nil)), sbx.MinIsolation(sbx.SharedKernel))
	fmt.Println(err)
	// Output: sbx: open: the inprocess driver's level of isolation is "no isolation", and MinIsolation asks for "shared kernel"; leave sbx.Driver out for local sandboxes, or ask for less
}

func ExampleSession_Report() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	report := session.Report()
	fmt.Println(report.Isolation)
	fmt.Printf("%+v\n", report.Capability("open files"))
	// Output:
	// shared kernel
	// {Name:open files Held:true By:RLIMIT_NOFILE Why: Remedies:[]}
}
