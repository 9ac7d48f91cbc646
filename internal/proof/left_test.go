package proof

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// descriptors returns the files that this process has open; none where that can't be known.
func descriptors() []string {
	var files []string
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil { // the folder itself is closed by now
			files = append(files, entry.Name()+" "+target)
		}
	}
	return files
}

// descendants returns the processes below this one, and those that run this program and belong to nobody any more, by their
// numbers in /proc; none where there is no such folder. Those that are dead and not yet waited for are among them.
func descendants() []int {
	parents := map[int]int{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		stat, _ := os.ReadFile(path) // it may be gone
		// The name, in parentheses, may have anything in it.
		fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
		if len(fields) < 2 {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	own, _ := os.Stat("/proc/self/exe")
	var found []int
	for pid := range parents {
		exe, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/exe")
		if pid != os.Getpid() && (below(pid, parents) || err == nil && os.SameFile(own, exe)) {
			found = append(found, pid)
		}
	}
	return found
}

func below(pid int, parents map[int]int) bool {
	for range len(parents) {
		if pid = parents[pid]; pid == os.Getpid() {
			return true
		}
	}
	return false
}

// children returns this process's own children: where workers are plain processes, the workers.
func children() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		for field := range strings.FieldsSeq(string(text)) {
			pid, _ := strconv.Atoi(field)
			pids = append(pids, pid)
		}
	}
	return pids
}

// hasExecuted tells a worker from a child that is still this program, between fork and execution: the Go runtime waits for that one without
// letting go of its processor, so who stops it stops this program, at its next garbage collection, as with any start of a process in Go.
func hasExecuted(pid int) bool {
	own, _ := os.ReadFile("/proc/self/cmdline")
	other, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && !bytes.Equal(own, other)
}
