//go:build unix

package proof

import (
	"errors"
	"os"
	"syscall"
)

// endProcess ends this process, or its connection, in a way that not every system has.
func endProcess(how string) error {
	switch how {
	case "kill":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "stop":
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "cut":
		err := errors.New("no socket was found")
		for fd := 3; fd < 64; fd++ { // the connection with the session among them
			if syscall.Shutdown(fd, syscall.SHUT_RDWR) == nil {
				err = nil
			}
		}
		return err
	}
	return errors.ErrUnsupported
}

func shoot(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func hold(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
