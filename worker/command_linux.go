package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithWorker has the kernel kill a command whose worker has died. What the command started is not reached by that.
func dieWithWorker(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

// awaitExit waits for a command's end, and leaves its status to be taken: until then its id, which is its group's too, is not
// given to another, and the group can be killed.
func awaitExit(c *command) {
	for {
		err := unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// onlyZombies reports whether the processes that a group has are dead: whoever inherited them may not reap them, as process 1 of many
// containers doesn't.
func onlyZombies(group int) bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	zombies := 0
	for _, path := range paths {
		stat, _ := os.ReadFile(path) // of one that is gone there is none
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		switch {
		case len(fields) < 18 || string(fields[2]) != strconv.Itoa(group): // state, parent, group
		case string(fields[0]) != "Z" && string(fields[0]) != "X", string(fields[17]) > "1": // its other threads live
			return false
		default:
			zombies++
		}
	}
	return zombies > 0
}
