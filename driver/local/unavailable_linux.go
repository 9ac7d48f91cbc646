package local

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
)

// unavailable says what would let this machine make sandboxes.
func unavailable(err error) error {
	return &driver.UnavailableError{Driver: driverName, Err: err, Remedies: remedies(err, os.ReadFile)}
}

// errNoProc is of a program in a folder of its own, as by chroot.
var errNoProc = errors.New("there is no /proc/self/exe, by which the program starts itself again")

// errNoLibrary is of a program that has C code.
var errNoLibrary = errors.New("a shared library that the program is linked to can't be loaded")

// refusals are the settings by which kernels and distributions refuse user namespaces.
var refusals = []struct{ path, value, remedy string }{
	{"/proc/sys/user/max_user_namespaces", "0", "allow user namespaces: sysctl -w user.max_user_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "allow them to ordinary users: sysctl -w kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"let AppArmor allow them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or give this program a profile with userns)"},
}

// remedies names what applies here first, then what always helps.
func remedies(err error, readFile func(string) ([]byte, error)) []string {
	if remedy := driver.ShortageRemedy(err); remedy != "" {
		return []string{remedy} // another driver would lack it, too
	}
	var found []string
	if errors.Is(err, errNoRunsc) {
		return []string{"install it: https://gvisor.dev/docs/user_guide/install/", "leave Options.GVisor out, for sandboxes on this machine's kernel"}
	}
	if errors.Is(err, errNoProc) {
		return []string{"mount one: mount -t proc proc /proc"} // another driver would lack it, too
	}
	if errors.Is(err, errNoLibrary) {
		return []string{"have it below /usr, which sandboxes show, and known to ldconfig", "link it statically", giveUp}
	}
	if exited, ok := errors.AsType[*exec.ExitError](err); ok && exited.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL || errors.Is(err, control.ErrKilled) {
		// It says nothing of what this machine can do.
		return []string{"try again: something killed that process, perhaps the kernel for lack of memory, which its log (dmesg) has then"}
	}
	if errors.Is(err, errRoot) {
		found = append(found, "run this program as another user", "give it the capabilities SETUID, SETGID and SETFCAP over all user ids")
	}
	for _, r := range refusals {
		if value, err := readFile(r.path); err == nil && strings.TrimSpace(string(value)) == r.value {
			found = append(found, r.remedy)
		}
	}
	if isForeign(readFile) { // so that what is written of a child there is written of another process, or of none
		return append(found, "mount a /proc of this program's own process namespace: mount -t proc proc /proc", giveUp)
	}
	refused := errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
	for _, marker := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := readFile(marker); err == nil && refused {
			found = append(found, "start this container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "+
				"--security-opt systempaths=unconfined")
			break
		}
	}
	return append(found, giveUp)
}

// giveUp is the last remedy.
const giveUp = "use sbx.Driver(process.New()) of driver/process, which isolates nothing"

// isForeign reports whether /proc is of another process namespace, as after unshare --pid: this process has another number there.
func isForeign(readFile func(string) ([]byte, error)) bool {
	stat, err := readFile("/proc/self/stat")
	number, _, _ := strings.Cut(string(stat), " ")
	return err == nil && number != strconv.Itoa(os.Getpid())
}
