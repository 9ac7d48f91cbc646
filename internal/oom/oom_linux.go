package oom

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/sandboxfn/sbx/internal/cgroup"
)

// counter is the file with the count of this process's memory cgroup, or of the machine. A process rarely changes its
// group, and if it does its next children do so, too.
var counter = sync.OnceValue(func() string {
	v1, v2 := cgroup.Own("memory")
	for _, candidate := range []struct{ folder, file string }{{v1, "memory.oom_control"}, {v2, "memory.events"}} {
		path := filepath.Join(candidate.folder, candidate.file)
		if _, ok := Count(path); ok && candidate.folder != "" {
			return path
		}
	}
	return "/proc/vmstat"
})

// kills is how many processes the kernel has killed for lack of memory.
func kills() uint64 {
	n, _ := Count(counter())
	return n
}

// Count reads the line "oom_kill N" of a file: memory.oom_control of a cgroup in version 1, memory.events in version 2.
func Count(path string) (n uint64, ok bool) {
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
