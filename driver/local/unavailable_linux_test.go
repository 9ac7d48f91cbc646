package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/stretchr/testify/assert"
)

func TestRemedies(t *testing.T) {
	const maxZero, userns, apparmor = "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone",
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	for name, test := range map[string]struct {
		err   error
		files map[string]string
		want  string // in the first remedy
	}{
		"limit":     {syscall.ENOSPC, map[string]string{maxZero: "0\n"}, "user.max_user_namespaces"},
		"Debian":    {syscall.EPERM, map[string]string{maxZero: "9", userns: "0\n"}, "kernel.unprivileged_userns_clone=1"},
		"Ubuntu":    {syscall.EACCES, map[string]string{userns: "1", apparmor: "1\n"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		"container": {syscall.EPERM, map[string]string{"/.dockerenv": ""}, "--security-opt systempaths=unconfined"},
		"own /proc": {syscall.EPERM, map[string]string{"/.dockerenv": "", "/proc/self/stat": strconv.Itoa(os.Getpid()) + " (a program) S 1"}, "--security-opt"},
		"/proc":     {syscall.EPERM, map[string]string{"/.dockerenv": "", "/proc/self/stat": "0 (a program) S 1"}, "mount -t proc proc /proc"},
		"root":      {errRoot, nil, "another user"},
		"other":     {syscall.EINVAL, map[string]string{"/.dockerenv": "", maxZero: "9"}, "driver/process"},
	} {
		t.Run(name, func(t *testing.T) {
			found := remedies(&SetupError{Step: "x", Err: test.err}, func(path string) ([]byte, error) {
				if content, ok := test.files[path]; ok {
					return []byte(content), nil
				}
				return nil, fs.ErrNotExist
			})
			assert.Contains(t, found[0], test.want)
			assert.Contains(t, found[len(found)-1], "driver/process")
		})
	}
}

// Nobody is told to give up isolation because of a limit that can be raised.
func TestRemediesOfALimit(t *testing.T) {
	assert.ErrorContains(t, unavailable(errNoProc), "mount -t proc proc /proc")
	assert.NotContains(t, unavailable(errNoProc).Error(), "driver/process")
	for errno, want := range map[syscall.Errno]string{
		syscall.EMFILE: "ulimit -n", syscall.ENFILE: "fs.file-max", syscall.EAGAIN: "ulimit -u", syscall.EFBIG: "ulimit -f", syscall.ENOMEM: "memory",
	} {
		err := unavailable(&SetupError{Step: "x", Err: os.NewSyscallError("pipe2", errno)})
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "driver/process")
	}
}

// So it is with a launcher that something killed: the next one may live.
func TestALauncherThatIsKilled(t *testing.T) {
	for signal, mayGiveUp := range map[string]bool{"KILL": false, "SYS": true} {
		killed := exec.Command("/bin/sh", "-c", "kill -"+signal+" $$").Run()
		err := unavailable(&SetupError{Step: "start the launcher", Err: launcherDeath(io.EOF, killed, &tail{})})
		assert.Equal(t, mayGiveUp, strings.Contains(err.Error(), "driver/process"), err)
		assert.Equal(t, !mayGiveUp, strings.Contains(err.Error(), "try again"), err)
	}
}

func TestAProcess1ThatIsKilled(t *testing.T) {
	event := control.Failure("", "x", fmt.Errorf("its process 1: %w", control.ErrKilled))
	err := unavailable(&SetupError{Step: event.Step, Err: event.Err()})
	assert.ErrorContains(t, err, "try again")
	assert.NotContains(t, err.Error(), "driver/process")
}

func TestALauncherWithoutThreads(t *testing.T) {
	stderr := &tail{}
	_, _ = stderr.Write([]byte("runtime: failed to create new OS thread (have 2 already; errno=11)\nfatal error: newosproc\n\nruntime stack:\nruntime.throw()\nruntime.newosproc(0x1)\n"))
	err := unavailable(launcherDeath(io.EOF, errors.New("exit status 2"), stderr))
	assert.EqualError(t, err, "the local driver can't isolate here: resource temporarily unavailable (exit status 2): it may have no more threads; "+
		"to go on, allow this user or container more processes: ulimit -u 4096, or the container's limit of processes")
	for _, text := range []string{"panic: oh", "\n"} {
		stderr = &tail{}
		_, _ = stderr.Write([]byte("panic: oh\n"))
		_, _ = stderr.Write([]byte(strings.Repeat(text, 10000))) // every goroutine's stack
		assert.ErrorContains(t, launcherDeath(io.EOF, errors.New("exit status 2"), stderr), ": panic: oh")
		assert.Less(t, len(stderr.String()), 6000)
	}

	// The race detector's warnings are not the reason.
	stderr = &tail{}
	for range 100 {
		n, err := stderr.Write([]byte("==1==WARNING: reading executable name failed with errno 2, some stack frames may not be symbolized\n"))
		assert.Equal(t, 99, n)
		assert.NoError(t, err)
	}
	_, _ = stderr.Write([]byte("panic: oh\n"))
	assert.Equal(t, ": panic: oh\n", stderr.String())

	// So may what the launcher tries.
	ended := errors.New("process 1 ended (wait status 0x200): EOF")
	assert.Equal(t, ended, deathOf(ended, "", "sbx: oh\n"))
	assert.ErrorIs(t, deathOf(ended, "", "runtime: failed to create new OS thread (have 2 already; errno=11)\nruntime.newosproc(0x1)\n"), syscall.EAGAIN)

	// A library that is not below /usr, with the C libraries' loaders.
	for text, want := range map[string]string{
		"/.sbx/agent: error while loading shared libraries: libx.so: cannot open shared object file: No such file or directory\n": "libx.so: cannot open shared object file: No such file or directory; to go on, have it below /usr",
		"Error loading shared library libx.so: No such file or directory (needed by /.sbx/agent)\nError relocating":               "libx.so: No such file or directory (needed by /.sbx/agent); to go on, have it below /usr",
	} {
		assert.ErrorContains(t, unavailable(deathOf(ended, "", text)), "can't be loaded: "+want)
	}

	// With cgo they look otherwise, and are long.
	for text, want := range map[string]string{
		"runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT: abort\n": "ulimit -u",
		"fatal error: runtime: cannot allocate memory\n":                                         "ulimit -v",
		"runtime: out of memory: cannot allocate 4194304-byte block (0 in use)\n":                "ulimit -v",
	} {
		stderr = &tail{}
		_, _ = stderr.Write([]byte(text + strings.Repeat("goroutine 7\n", 1000)))
		err = unavailable(launcherDeath(io.EOF, errors.New("exit status 2"), stderr))
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "goroutine")
		assert.NotContains(t, err.Error(), "driver/process")
	}
}
