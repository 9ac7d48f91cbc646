package process

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// dieWithParent has the kernel kill a process when the thread that started it ends. A worker exits when its connection ends, but
// one that is stuck in the kernel, or whose user code has taken every thread, can't.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// isZombie reports whether a child is dead, with all its threads, and was not reaped: a process that traces it may keep it so.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// "1 (name, which may hold anything) Z 2 …"
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 || !bytes.HasPrefix(stat[end:], []byte(") Z ")) {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) == 1
}
