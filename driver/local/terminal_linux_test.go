package local_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// workerTerminal runs a shell in a terminal of its own, and prints what becomes of that.
func workerTerminal() int {
	if err := useTerminal(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func useTerminal() error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer master.Close()
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("TIOCGPTN", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("TIOCSPTLCK", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer slave.Close()
	resize := func(rows, columns uint16) error {
		return os.NewSyscallError("TIOCSWINSZ", unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	}
	if err := resize(33, 111); err != nil {
		return err
	}
	// noflsh: else the kernel drops, after the signal, what the shell has written by then.
	shell := exec.Command("/bin/sh", "-c", `tty; stty -echo noflsh; stty size; echo by name >/dev/tty
		trap 'stty size' WINCH; trap 'echo interrupted; exit 7' INT
		echo ready; while :; do read line; done`)
	shell.Env = []string{"PATH=/usr/bin:/bin"}
	shell.Stdin, shell.Stdout, shell.Stderr = slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		return err
	}
	if err := slave.Close(); err != nil {
		return err
	}
	lines := bufio.NewReader(master)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, syscall.EIO) || errors.Is(err, io.EOF) { // nobody has the other end
			break
		} else if err != nil {
			return err
		}
		line = strings.TrimSpace(line)
		fmt.Println(line)
		switch line {
		case "ready":
			err = resize(44, 122)
		case "44 122":
			_, err = master.WriteString("\x03")
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("exit:", shell.Wait())
	return nil
}

const terminalOutput = "/dev/pts/0\n33 111\nby name\nready\n44 122\ninterrupted\nexit: exit status 7\n"

func TestTerminal(t *testing.T) {
	session := open(t)
	for _, id := range []string{"one", "two"} { // each has numbers of its own
		_, p := start(t, session, id, "terminal")
		stdout, stderr, exit := output(t, p)
		assert.Equal(t, terminalOutput, stdout)
		assert.Empty(t, stderr)
		assert.Equal(t, driver.Exit{}, exit)
	}
}
