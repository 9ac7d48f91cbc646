package oom

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	v1Mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 master:1 - cgroup cgroup rw,memory\n"
	v2Mounts = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	// A container sees its part of the hierarchy only.
	partMounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)

func TestGroupFiles(t *testing.T) {
	for _, c := range []struct {
		name, groups, mounts string
		want                 []string
	}{
		{"version 1", "5:cpu:/c\n4:memory:/a/b\n0::/\n", v1Mounts, []string{"/sys/fs/cgroup/memory/a/b/memory.oom_control", ""}},
		{"version 2", "0::/user.slice/a:b.scope\n", v2Mounts, []string{"", "/sys/fs/cgroup/user.slice/a:b.scope/memory.events"}},
		{"hybrid", "4:memory:/\n0::/x\n", v1Mounts + v2Mounts, []string{"/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/x/memory.events"}},
		{"in a container", "4:memory:/docker/abc\n", partMounts, []string{"/sys/fs/cgroup/memory/memory.oom_control", ""}},
		{"below a container's", "4:memory:/docker/abc/d\n", partMounts, []string{"/sys/fs/cgroup/memory/d/memory.oom_control", ""}},
		{"out of sight", "4:memory:/docker/other\n", partMounts, []string{"", ""}},
		{"nothing", "", "", []string{"", ""}},
		{"garbage", "::\n:\n4:memory", "a - b\n - \n", []string{"", ""}},
	} {
		assert.Equal(t, c.want, groupFiles(c.groups, c.mounts), c.name)
	}
}

func TestCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for text, want := range map[string]uint64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":                 3,
		"low 0\nhigh 0\nmax 9\noom 8\noom_kill 7\noom_group_kill 6\n":   7,
		"pgfault 1\noom_kill 18446744073709551615\nthp_fault_alloc 2\n": 1<<64 - 1,
		"oom_kill 12": 12,
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		n, ok := count(path)
		assert.True(t, ok, text)
		assert.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "oom_kill\n", "oom_kill x\n", "oom 1\n"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, ok := count(path)
		assert.False(t, ok, text)
	}
	_, ok := count(path + "s")
	assert.False(t, ok)
	_, ok = count("/proc/vmstat")
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
