package local

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// stepFD is where a test listens that wants to hear of each step of set-up. The step waits for an answer.
const stepFD = 100

// Before any init function of this package: that of divert_linux.go doesn't return.
var _ = tellSteps(os.Getenv(setup.RoleVariable))

// roleToldOf is that of a process 1 whose steps are told of. Package setup would take its own over before.
const roleToldOf = "told-of"

func tellSteps(role string) bool {
	if role != roleLauncher && role != roleGVisor && role != roleToldOf {
		return false
	}
	if _, err := unix.GetsockoptInt(stepFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return false // no such test
	}
	setup.BeforeStep = func(name string) {
		if role == roleLauncher { // process 1's is to be closed before the worker starts
			_, _ = unix.FcntlInt(stepFD, unix.F_SETFD, 0)
		}
		if unix.Send(stepFD, []byte(name), unix.MSG_NOSIGNAL) == nil {
			_, _ = unix.Read(stepFD, make([]byte, 1))
		}
	}
	setupRole = roleToldOf
	if role == roleToldOf {
		setup.Exit(setup.Run())
	}
	return true
}
