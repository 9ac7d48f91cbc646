//go:build !sbxworker

package docker

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// owner names this program among all of all machines: by the boot of the machine, the process ids' namespace, the process id, and when the process
// began, since the id may be another's later. It is empty where that can't be found out.
var owner = sync.OnceValue(func() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	began := beginning(os.Getpid())
	if err != nil || began == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%d/%s", bytes.TrimSpace(boot), namespace, os.Getpid(), began)
})

// isGone reports whether an owner is a program of this machine, and of this namespace, that has certainly ended.
func isGone(other string) bool {
	theirs, ours := strings.Split(other, "/"), strings.Split(owner(), "/")
	if len(theirs) != 4 || len(ours) != 4 || theirs[0] != ours[0] || theirs[1] != ours[1] {
		return false
	}
	pid, err := strconv.Atoi(theirs[2])
	if err != nil || pid <= 0 {
		return false
	}
	if err := syscall.Kill(pid, 0); err == syscall.ESRCH {
		return true
	}
	began := beginning(pid) // empty if it is hidden from this user
	return began != "" && began != theirs[3]
}

// beginning is when a process began, in ticks since the machine did; empty if that can't be read.
func beginning(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" ")) // the name before may hold anything
	fields := bytes.Fields(rest)
	const field = 22 - 3 // the 22nd, and the first here is the third
	if !ok || len(fields) <= field {
		return ""
	}
	return string(fields[field])
}
