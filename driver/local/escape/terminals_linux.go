package escape

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// terminals are attempts at terminals, and at what the kernel does with them.
var terminals = []Attempt{
	{"TIOCSTI", func(Targets) error { return pushInput(unix.TIOCSTI) }},
	{"TIOCSTI with high bits", func(Targets) error { return pushInput(unix.TIOCSTI | 1<<32) }},
	{"set a line discipline", func(Targets) error { return setDiscipline(unix.TIOCSETD) }},
	{"set a line discipline with high bits", func(Targets) error { return setDiscipline(unix.TIOCSETD | 1<<32) }},
	{"find a terminal of the host", func(Targets) error { return firstEntry("/dev/pts/[0-9]*") }},
	{"use a console", func(Targets) error {
		var errs []error
		for _, path := range []string{"/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0"} {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				return unix.Close(fd)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}},
	{"terminal bomb", func(Targets) error {
		return repeat(128+1, func(int) error {
			_, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
			return err
		})
	}},
}

// openTerminal returns a new terminal. It and its other end stay open as long as the process lives.
func openTerminal() (int, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return 0, err
	}
	return unix.Open(fmt.Sprintf("/dev/pts/%d", number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

func keepTerminal(*Targets) error {
	_, err := openTerminal()
	return err
}

// pushInput puts a character into the input of the process's own terminal.
func pushInput(request uintptr) error {
	terminal, err := openTerminal()
	if err != nil {
		return err
	}
	// Else the kernel refuses it to whoever is no administrator.
	if _, err := unix.Setsid(); err != nil && os.Getpid() != sessionOf() {
		return err
	}
	if err := unix.IoctlSetInt(terminal, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make it the own terminal: %w", err)
	}
	character := byte('x')
	return errnoOf(unix.SYS_IOCTL, uintptr(terminal), request, uintptr(unsafe.Pointer(&character)))
}

func sessionOf() int {
	session, _ := unix.Getsid(0)
	return session
}

// setDiscipline sets the discipline that a terminal has already, so that it harms nobody.
func setDiscipline(request uintptr) error {
	terminal, err := openTerminal()
	if err != nil {
		return err
	}
	discipline := int32(0)
	return errnoOf(unix.SYS_IOCTL, uintptr(terminal), request, uintptr(unsafe.Pointer(&discipline)))
}
