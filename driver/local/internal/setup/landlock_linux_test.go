package setup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// What the domain refuses by itself, without the mounts, the filter and the namespaces that hold the same.
func TestLandlock(t *testing.T) {
	version := LandlockVersion()
	if version < 2 {
		t.Skipf("this kernel has Landlock version %d", version)
	}
	inside, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
	listener, listenErr := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, listenErr)
	defer unix.Close(listener)
	address := &unix.SockaddrUnix{Name: "@" + outside}
	require.NoError(t, unix.Bind(listener, address))
	require.NoError(t, unix.Listen(listener, 8))

	sleeper := exec.Command("/bin/sleep", "1000")
	require.NoError(t, sleeper.Start())
	child := sleeper.Process.Pid
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()

	made := 0
	attempts := []struct {
		name string
		from int // the version that refuses it
		err  error
		do   func() error
	}{
		{"write", 1, unix.EACCES, func() error {
			fd, err := unix.Open(filepath.Join(outside, "file"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			_ = unix.Close(fd)
			return err
		}},
		{"make a folder", 1, unix.EACCES, func() error {
			made++
			return unix.Mkdir(filepath.Join(outside, fmt.Sprint(made)), 0o700)
		}},
		{"remove a folder", 1, unix.EACCES, func() error {
			if err := unix.Rmdir(filepath.Dir(outside)); err != unix.ENOTEMPTY {
				return err
			}
			return nil
		}},
		{"truncate", 3, unix.EACCES, func() error { return unix.Truncate(filepath.Join(outside, "file"), 0) }},
		{"give commands to a device", 5, unix.EACCES, func() error {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if _, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == unix.ENOTTY {
				return nil // it came to the device
			}
			return err
		}},
		{"connect to an abstract socket", 6, unix.EPERM, func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, address)
		}},
		{"signal a process", 6, unix.EPERM, func() error { return unix.Kill(child, 0) }},
	}
	for _, attempt := range attempts {
		assert.NoError(t, attempt.do(), attempt.name)
	}
	errs := make([]error, len(attempts))
	var err, renameErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		if err = prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
			return
		}
		if err = landlock(version, map[string]uint64{inside: writes}); err != nil {
			return
		}
		for i, attempt := range attempts {
			errs[i] = attempt.do()
		}
		renameErr = renameWithin(inside)
	}()
	<-done
	require.NoError(t, err)
	assert.NoError(t, renameErr, "within the folder")
	for i, attempt := range attempts {
		if version >= attempt.from {
			assert.ErrorIs(t, errs[i], attempt.err, attempt.name)
		}
	}

	// Older kernels: nothing is asked of them that they don't know, and version 1 isn't used.
	for old := range version {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
				done <- err
				return
			}
			done <- landlock(old, map[string]uint64{inside: writes})
		}()
		assert.NoError(t, <-done, "version %d", old)
	}
}

// renameWithin makes a file in one folder and moves it to another.
func renameWithin(folder string) error {
	if err := os.Mkdir(filepath.Join(folder, "a"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "a", "file"), nil, 0o600); err != nil {
		return err
	}
	return os.Rename(filepath.Join(folder, "a", "file"), filepath.Join(folder, "file"))
}

// A session keyring that the launcher got from its caller stays behind.
func TestNewSessionKeyring(t *testing.T) {
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); err != nil {
		t.Skipf("no keyrings here: %v", err)
	}
	done := make(chan [2]int)
	go func() {
		runtime.LockOSThread()
		var ids [2]int
		ids[0], _ = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true)
		for _, s := range privilegeSteps(control.Preparation{}, new(bool)) {
			if s.Name == "join a new session keyring" {
				_ = s.Do()
			}
		}
		ids[1], _ = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		done <- ids
	}()
	ids := <-done
	assert.NotZero(t, ids[1])
	assert.NotEqual(t, ids[0], ids[1])
}
