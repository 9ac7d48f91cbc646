package local

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/sandboxfn/sbx/driver"
)

// unavailable says what would let this machine make sandboxes.
func unavailable(err error) error {
	return &driver.UnavailableError{Driver: driverName, Err: err, Remedies: remedies(err, os.ReadFile)}
}

// refusals are the settings by which kernels and distributions refuse user namespaces.
var refusals = []struct{ path, value, remedy string }{
	{"/proc/sys/user/max_user_namespaces", "0", "allow user namespaces: sysctl -w user.max_user_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "allow them to ordinary users: sysctl -w kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"let AppArmor allow them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or give this program a profile with userns)"},
}

// usedUp are errors that say nothing of whether this machine can isolate: the program has reached a limit of its own.
var usedUp = []struct {
	errno  syscall.Errno
	remedy string
}{
	{syscall.EMFILE, "let this program open more files (ulimit -n)"},
	{syscall.ENFILE, "let this machine open more files: sysctl -w fs.file-max=1000000"},
	{syscall.EAGAIN, "let this program's user have more processes (ulimit -u), or its service or container (TasksMax, pids.max)"},
	{syscall.EFBIG, "let this program write larger files (ulimit -f)"},
}

// remedies names what applies here first, then what always helps; what helps alone if a limit is in the way.
func remedies(err error, readFile func(string) ([]byte, error)) []string {
	for _, u := range usedUp {
		if errors.Is(err, u.errno) {
			return []string{u.remedy}
		}
	}
	var found []string
	if errors.Is(err, errNoRunsc) {
		found = append(found, "install it: https://gvisor.dev/docs/user_guide/install/")
	}
	for _, r := range refusals {
		if value, err := readFile(r.path); err == nil && strings.TrimSpace(string(value)) == r.value {
			found = append(found, r.remedy)
		}
	}
	refused := errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
	for _, marker := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := readFile(marker); err == nil && refused {
			found = append(found, "start this container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "+
				"--security-opt systempaths=unconfined (as root also --cap-add SYS_ADMIN)")
			break
		}
	}
	return append(found, "use sbx.Driver(process.New()) of driver/process, which isolates nothing")
}
