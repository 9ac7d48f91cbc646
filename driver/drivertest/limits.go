package drivertest

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The clauses about what a sandbox holds.

func (s *suite) report() {
	report := s.session.Report()
	assert.Equal(s, s.driver.Name(), report.Driver)
	assert.Equal(s, s.has.Isolation, report.Isolation > driver.NoIsolation)
	assert.LessOrEqual(s, report.Isolation, driver.Machine)
	times := map[string]int{}
	for _, c := range report.Capabilities {
		times[c.Name]++
		assert.Equal(s, c.Held, c.By != "", "%s: by which mechanism", c.Name)
		assert.Equal(s, c.Held, c.Why == "", "%s: why not", c.Name)
		assert.False(s, c.Held && len(c.Remedies) > 0, "%s: it needs no remedy", c.Name)
	}
	for _, name := range driver.LimitNames() {
		assert.Equal(s, 1, times[name], name)
	}
	require.NoError(s, s.session.Close(s.ctx))
	assert.Equal(s, report, s.session.Report(), "after Close")
}

func (s *suite) limits() {
	generous := driver.Resources{CPUs: cmp.Or(s.has.CPUs, 64), MemoryMiB: 1 << 10, Processes: 500, OpenFiles: 500, DiskMiB: 64, Inodes: 500}
	for i, name := range driver.LimitNames() {
		var others []string
		for j, other := range driver.LimitNames() {
			if i != j {
				others = append(others, other)
			}
		}
		spec := driver.Spec{ID: fmt.Sprintf("drivertest-limit-%d", i), Limits: generous.Without(others...)}
		require.Equal(s, []string{name}, spec.Limits.Names())
		err := s.limited(spec)
		if s.session.Report().Capability(name).Held {
			assert.NoError(s, err, name)
			continue
		}
		limit, ok := errors.AsType[*driver.LimitError](err)
		require.True(s, ok, "%s: %v", name, err)
		assert.Equal(s, s.driver.Name(), limit.Driver)
		assert.Equal(s, name, limit.Limit)
		assert.NotEmpty(s, limit.Remedies)
		assert.Error(s, limit.Err)
	}
	assert.NoError(s, s.limited(driver.Spec{ID: "drivertest-soft", Soft: generous}), "what is held only if possible is never refused")
}

// limited calls a function in a sandbox of spec and stops it.
func (s *suite) limited(spec driver.Spec) error {
	sandbox, err := s.session.Create(s.ctx, spec)
	if err != nil {
		return err
	}
	defer func() { assert.NoError(s, sandbox.Stop(s.ctx)) }()
	w, err := launch.Start(s.ctx, sandbox, launch.Config{Session: "drivertest", Sandbox: spec.ID, Divert: worker.Diverts(), Lease: patience})
	if err != nil {
		return err
	}
	assert.Equal(s, []byte("1"), result[[]byte](s, "echo", call(s, w, "echo", []byte("1"))))
	require.NoError(s, sandbox.Stop(s.ctx))
	w.Close()
	return nil
}
