package oom

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for text, want := range map[string]uint64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":                 3,
		"low 0\nhigh 0\nmax 9\noom 8\noom_kill 7\noom_group_kill 6\n":   7,
		"pgfault 1\noom_kill 18446744073709551615\nthp_fault_alloc 2\n": 1<<64 - 1,
		"oom_kill 12": 12,
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		n, ok := Count(path)
		assert.True(t, ok, text)
		assert.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "oom_kill\n", "oom_kill x\n", "oom 1\n"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, ok := Count(path)
		assert.False(t, ok, text)
	}
	_, ok := Count(path + "s")
	assert.False(t, ok)
	_, ok = Count("/proc/vmstat")
	assert.True(t, ok, "the machine's own count is there")
}

func TestOneKillExplainsOneDeath(t *testing.T) {
	before := explained
	t.Cleanup(func() { explained = before })
	explained = 0
	first, second := Mark{5}, Mark{6}
	assert.False(t, first.explainedBy(5), "nothing happened since")
	assert.True(t, second.explainedBy(7))
	assert.False(t, second.explainedBy(7), "the kill was another's")
	assert.False(t, first.explainedBy(7))
	assert.True(t, first.explainedBy(9))
	assert.True(t, first.explainedBy(9), "two kills, two deaths")
	assert.False(t, first.explainedBy(9))
	assert.False(t, Now().Killed())
}
