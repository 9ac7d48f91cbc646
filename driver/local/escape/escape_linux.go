package escape

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Attempt is one way out. Do returns nil if it worked ("open"), and otherwise what stopped it ("held"). It may leave
// its process unusable, so each attempt is made by a process of its own.
type Attempt struct {
	Name string
	Do   func(Targets) error
}

var errNotThere = errors.New("nothing there")

// Attempts are all that this package knows.
var Attempts = slices.Concat(files, processes, mounts, network, kernel, terminals, abi, bombs, neighbours)

func contains(path, text string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(content, []byte(text)) {
		return errNotThere
	}
	return nil
}

func anyProcess(name, text string) error {
	paths, _ := filepath.Glob("/proc/[0-9]*/" + name)
	for _, path := range paths {
		if strings.HasPrefix(path, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		if contains(path, text) == nil {
			return nil
		}
	}
	return errNotThere
}

func readable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

func anyReadable(paths ...string) error {
	var errs []error
	for _, path := range paths {
		err := readable(path)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func nonEmpty(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := file.Read(make([]byte, 1))
	if n == 0 {
		return errNotThere
	}
	return err
}

func firstEntry(patterns ...string) error {
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return nil
		}
	}
	return errNotThere
}

func writable(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func creatable(folder string) error {
	file, err := os.CreateTemp(folder, "escape")
	if err != nil {
		return err
	}
	_ = file.Close()
	return os.Remove(file.Name())
}

func anyCreatable(folders ...string) error {
	var errs []error
	for _, folder := range folders {
		err := creatable(folder)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// touch changes a file without changing what it holds: a running program can't be opened for writing anywhere.
func touch(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}

func dial(network, address string) error {
	conn, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// reachable takes an error that only the call itself makes for a success: the call was not refused.
func reachable(err error, own ...error) error {
	for _, e := range own {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func socket(domain, kind, protocol uintptr) error {
	return errnoOf(unix.SYS_SOCKET, domain, kind|unix.SOCK_CLOEXEC, protocol)
}

// errnoOf makes a system call with up to six arguments.
func errnoOf(number uintptr, arguments ...uintptr) error {
	var a [6]uintptr
	copy(a[:], arguments)
	if _, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// bytesOf is the address of a constant, which has to end with a zero byte.
func bytesOf(text string) uintptr {
	return uintptr(unsafe.Pointer(unsafe.StringData(text)))
}

// controls make, outside and in the attempt's own process, what an attempt needs to succeed.
var controls = map[string]func(*Targets) error{
	"connect to the metadata service":                                      serveMetadata,
	"list applications in /usr/src":                                        makeApplication,
	"use an inherited folder":                                              openFolder,
	"signal the session's program through its connection":                  connectSelf,
	"enter the namespaces of the session's program through its connection": connectSelf,
	"inode bomb":                    mountScratch,
	"find a terminal of the host":   keepTerminal,
	"find a key":                    addKey,
	"request_key":                   addKey,
	"end process 1":                 startVictim,
	"end process 1 through a pidfd": startVictim,
	"end process 1's first thread":  startVictim,
}

// Control prepares a process outside for the attempt of that name.
func Control(name string, t *Targets) error {
	if control := controls[name]; control != nil {
		return control(t)
	}
	return nil
}

func makeApplication(*Targets) error {
	if err := unix.Mount("tmpfs", "/usr/src", "tmpfs", 0, ""); err != nil {
		return err
	}
	return os.WriteFile("/usr/src/application", nil, 0o644)
}

func openFolder(t *Targets) error {
	_, err := unix.Open(t.HostFolder, unix.O_PATH, 0)
	return err
}

func connectSelf(t *Targets) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	t.ConnFD = pair[0]
	return err
}

// mountScratch makes a folder in which files are made quickly.
func mountScratch(*Targets) error {
	return unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, "nr_inodes=0")
}

func addKey(*Targets) error {
	runtime.LockOSThread() // whose keyring it is
	_, err := unix.AddKey("user", keyName, []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
	return err
}

func startVictim(t *Targets) error {
	victim := exec.Command("/bin/sleep", "1000")
	victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := victim.Start(); err != nil {
		return err
	}
	t.Init = victim.Process.Pid
	return nil
}
