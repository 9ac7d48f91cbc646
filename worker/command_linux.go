package worker

import (
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
