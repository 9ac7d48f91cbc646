package local

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// roleVariable tells a re-executed program which role to take. It is the only variable in the environment of the
// launcher, of init, of the agent and of the fetcher, and never in a worker's.
const roleVariable = "SBX_LOCAL"

const (
	roleLauncher = "launcher"
	roleInit     = "init"
	roleFetcher  = "fetcher"
	// In gVisor:
	roleProbe         = "probe" // ends at once: it could be started
	roleStart         = "start" // becomes the worker
	roleStartHomeless = "start-homeless"
)

// init diverts a re-executed program to its role. The roles never return, and nothing happens in any other process. It
// runs on the main thread, to which the runtime locks the main goroutine during initialisation: parent-death signals
// and privileges belong to threads, and the main thread lives as long as its process.
func init() {
	var err error
	switch role := os.Getenv(roleVariable); role {
	case "":
		return
	case roleLauncher:
		err = runLauncher()
	case roleInit:
		err = runInit()
	case roleFetcher:
		err = runFetcher()
	case roleProbe:
	case roleStart, roleStartHomeless:
		err = startInGVisor(role == roleStartHomeless)
	default:
		err = fmt.Errorf("%s is set to an unknown role", roleVariable)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbx:", err)
		syscall.Exit(1)
	}
	// Not os.Exit, which, in programs built with -race, sleeps for a second first.
	syscall.Exit(0)
}

// controlFD is the socket by which a role is told what to do, and by which it reports.
const controlFD = 3

// closeOnExec keeps every descriptor but the standard three out of the programs that this process executes, whoever opened it.
func closeOnExec() error {
	if err := unix.CloseRange(controlFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	return nil
}

// closeAll closes descriptors, on the way out of something that failed or that passed them on.
func closeAll(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
