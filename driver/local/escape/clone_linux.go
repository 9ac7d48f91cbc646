package escape

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// cloneUser starts a process in a user namespace of its own.
func cloneUser() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	return cmd.Run()
}
