//go:build unix && !sbxworker

package worker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire"
	"golang.org/x/sys/unix"
)

// How a worker's coverage leaves the sandbox. A program that is built with -cover writes its counters to the folder
// GOCOVERDIR when it exits, and no earlier: package runtime/coverage has them at other times, but only with -covermode=atomic and
// never in a test binary. So this process starts the worker as a child, waits for its end, and passes the file on.

// superviseCovered runs the worker in a child, and ends as that did. It returns if there can be none.
func superviseCovered(boot wire.Boot, handshake *os.File) {
	folder, err := os.MkdirTemp(wire.SocketFolder("/dev/shm", "/tmp", os.TempDir()), "sbx-coverage-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "sbx: nothing that runs in this sandbox is counted for coverage: %v\n", err)
		return
	}
	self, err := Executable()
	if err != nil {
		self = os.Args[0]
	}
	boot.Coverage = false
	conn := os.NewFile(connFD, "connection")
	files := []*os.File{connFD - 3: conn, handshakeFD - 3: handshake, directFD - 3: nil}
	if ledger := os.NewFile(ledgerFD, "ledger"); isRegular(ledger) {
		files[ledgerFD-3] = ledger
	}
	direct := os.NewFile(directFD, "direct")
	if info, err := direct.Stat(); err == nil && info.Mode()&fs.ModeSocket != 0 {
		files[directFD-3] = direct
	}
	child := &exec.Cmd{
		Path: self, Args: os.Args,
		Env:    append(os.Environ(), wire.BootVariable+"="+boot.Encode(), "GOCOVERDIR="+folder),
		Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: files,
	}
	err = child.Start()
	// The session must see the stream end when the child does.
	_, _ = conn.Close(), direct.Close()
	if err == nil {
		err = child.Wait()
	}
	if exited := new(exec.ExitError); err != nil && !errors.As(err, &exited) {
		fmt.Fprintf(os.Stderr, "sbx: start the worker whose coverage is wanted: %v\n", err)
		os.Exit(1)
	}
	passOn(folder, handshake)
	_ = os.RemoveAll(folder)
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		// As a shell does. Process 1 of a sandbox takes no signal of its own, so there may be an end after it.
		_ = syscall.Kill(os.Getpid(), status.Signal())
	}
	os.Exit(child.ProcessState.ExitCode())
}

// passOn writes the counters in folder to the session.
func passOn(folder string, handshake *os.File) {
	names, err := filepath.Glob(filepath.Join(folder, "covcounters.*"))
	if err != nil || len(names) == 0 {
		return // it crashed, or was killed
	}
	file, err := os.Open(names[0])
	if err != nil || !isRegular(file) {
		return
	}
	defer func() { _ = file.Close() }()
	if _, err := io.WriteString(handshake, wire.CoverageMark); err == nil {
		_, _ = io.Copy(handshake, file)
	}
}

func isRegular(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// runNoTest prepares a test binary, whose main function comes next, to do nothing there: it lists the tests that have no name. A
// TestMain of the user's runs, as it must for the counters to be written, but the session is gone, and nothing that it prints is seen.
func runNoTest() {
	os.Args = []string{os.Args[0], "-test.list=^$"}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		os.Exit(1)
	}
	for _, fd := range []int{1, 2} {
		if err := unix.Dup2(int(null.Fd()), fd); err != nil {
			os.Exit(1)
		}
	}
}
