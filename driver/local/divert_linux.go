package local

import (
	"fmt"
	"os"

	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// The roles that a re-executed program takes, beside that of package setup.
const (
	roleLauncher = "launcher"
	roleFetcher  = "fetcher"
	// In gVisor:
	roleGVisor        = "gvisor" // process 1, which becomes gVisor
	roleProbe         = "probe"  // ends at once: it could be started
	roleStart         = "start"  // becomes the worker
	roleStartHomeless = "start-homeless"
)

// init diverts a re-executed program to its role. The roles never return, and nothing happens in any other process. It
// runs on the main thread, to which the runtime locks the main goroutine during initialisation: parent-death signals
// and privileges belong to threads, and the main thread lives as long as its process.
func init() {
	var err error
	switch role := os.Getenv(setup.RoleVariable); role {
	case "":
		return
	case roleLauncher:
		err = runLauncher()
	case roleFetcher:
		err = runFetcher()
	case roleGVisor:
		err = runGVisor()
	case roleProbe:
	case roleStart, roleStartHomeless:
		err = startInGVisor(role == roleStartHomeless)
	default:
		err = fmt.Errorf("%s is set to an unknown role", setup.RoleVariable)
	}
	setup.Exit(err)
}
