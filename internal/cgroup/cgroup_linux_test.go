package cgroup

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

const (
	v1Mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 master:1 - cgroup cgroup rw,memory\n"
	v2Mounts = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	// A container sees its part of the hierarchy only.
	partMounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)

func TestOwn(t *testing.T) {
	for _, c := range []struct {
		name, groups, mounts string
		v1, v2               string
	}{
		{"version 1", "5:cpu:/c\n4:memory:/a/b\n0::/\n", v1Mounts, "/sys/fs/cgroup/memory/a/b", ""},
		{"version 2", "0::/user.slice/a:b.scope\n", v2Mounts, "", "/sys/fs/cgroup/user.slice/a:b.scope"},
		{"hybrid", "4:memory:/\n0::/x\n", v1Mounts + v2Mounts, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/x"},
		{"in a container", "4:memory:/docker/abc\n", partMounts, "/sys/fs/cgroup/memory", ""},
		{"below a container's", "4:memory:/docker/abc/d\n", partMounts, "/sys/fs/cgroup/memory/d", ""},
		{"out of sight", "4:memory:/docker/other\n", partMounts, "", ""},
		{"mounted together", "4:cpu,memory:/a\n", "35 31 0:32 / /cg rw - cgroup cgroup rw,cpu,memory\n", "/cg/a", ""},
		{"nothing", "", "", "", ""},
		{"garbage", "::\n:\n4:memory", "a - b\n - \n", "", ""},
	} {
		v1, v2 := own("memory", c.groups, c.mounts)
		assert.Equal(t, c.v1, v1, c.name)
		assert.Equal(t, c.v2, v2, c.name)
	}
}
