package oom

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// counter is the file with the count of this process's memory cgroup, or of the machine. A process rarely changes its
// group, and if it does its next children do so, too.
var counter = sync.OnceValue(func() string {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, path := range groupFiles(string(groups), string(mounts)) {
		if _, ok := count(path); ok {
			return path
		}
	}
	return "/proc/vmstat"
})

// kills is how many processes the kernel has killed for lack of memory.
func kills() uint64 {
	n, _ := count(counter())
	return n
}

// count reads the line "oom_kill N" of a file.
func count(path string) (n uint64, ok bool) {
	file, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// groupFiles returns where the count of this process's memory cgroup may be: in version 1 of cgroups, then in version 2.
// groups and mounts are the files cgroup and mountinfo of /proc/self.
func groupFiles(groups, mounts string) []string {
	var v1, v2 string
	for line := range strings.Lines(groups) {
		// "4:memory:/path", "0::/path" for version 2
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(part) != 3:
		case part[1] == "memory":
			v1 = groupFile(mounts, "cgroup", "memory", part[2], "memory.oom_control")
		case part[1] == "":
			v2 = groupFile(mounts, "cgroup2", "", part[2], "memory.events")
		}
	}
	return []string{v1, v2}
}

// groupFile finds the mount of a cgroup hierarchy and a file of group in it. Where only a part of the hierarchy is
// mounted, as in a container, group is looked for below that part. It returns "" if there is none.
func groupFile(mounts, fstype, option, group, name string) string {
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
		return filepath.Join(where[4], below, name)
	}
	return ""
}
