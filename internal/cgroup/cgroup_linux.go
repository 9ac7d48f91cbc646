package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Own returns the folders of this process's group: in the hierarchy of version 1 that has a controller, and in that of version
// 2, which has it if its file cgroup.controllers says so. What isn't there, or can't be seen from here, is empty.
func Own(controller string) (v1, v2 string) {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	return own(controller, string(groups), string(mounts))
}

// own takes the files cgroup and mountinfo of /proc/self.
func own(controller, groups, mounts string) (v1, v2 string) {
	for line := range strings.Lines(groups) {
		// "4:memory:/path", "1:cpu,cpuacct:/path", "0::/path" for version 2
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(part) != 3:
		case part[1] == "":
			v2 = folder(mounts, "cgroup2", "", part[2])
		case slices.Contains(strings.Split(part[1], ","), controller):
			v1 = folder(mounts, "cgroup", controller, part[2])
		}
	}
	return v1, v2
}

// folder finds the mount of a cgroup hierarchy and the folder of group in it. Where only a part of the hierarchy is
// mounted, as in a container, group is looked for below that part. It returns "" if there is none.
func folder(mounts, fstype, option, group string) string {
	for line := range strings.Lines(mounts) {
		// "35 31 0:32 ROOT POINT rw,relatime shared:1 - cgroup cgroup rw,memory"
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) < 5 || len(what) < 3 || what[0] != fstype || option != "" && !slices.Contains(strings.Split(what[2], ","), option) {
			continue
		}
		below, err := filepath.Rel(where[3], group)
		if err != nil || strings.HasPrefix(below, "..") {
			continue
		}
		return filepath.Join(where[4], below)
	}
	return ""
}
