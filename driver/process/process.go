// Package process is a driver that runs workers as plain processes, with no isolation whatsoever: a function can do
// what the program's user can do. It has to be asked for, and says so in the log of every session.
//
// It is for machines without a driver that isolates, where the code that runs is the user's own. Each worker is the
// leader of a process group, which ends with it; processes that leave the group are not found again. A command has a group of its own, which ends
// with the worker as long as the command runs: what a command left in the background when it ended stays. A worker exits
// when its session's program does, even by kill -9; what the worker itself has started may outlive that.
//
// A worker starts in a folder of its own, which is empty, only this user's, and removed by Stop and Close. It is in the folder for
// temporary files (TMPDIR), below one of the session named sbx-process-*. What a program that was killed has left there is removed by
// the next session of the same user that opens; the folders of programs that run are locked.
//
// On Linux, driver.Exit tells a kill for lack of memory from another one by the kernel's count of such kills in the memory
// cgroup of the session's program, or on the whole machine where that can't be read. It is wrong about a worker that
// moved to another group, and about one that is killed otherwise while memory runs out for another process.
package process

import (
	"context"
	"log/slog"

	"github.com/sandboxfn/sbx/driver"
)

func init() { driver.Register("process", driver.Plain(New)) }

// New returns the driver. Its URL is "process".
func New() driver.Driver { return plain{} }

type plain struct{}

func (plain) Name() string { return "process" }

func (plain) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := open(ctx, spec)
	if err != nil {
		return nil, err
	}
	spec.Logger.Warn("functions run as plain processes with no isolation: the process driver was asked for",
		slog.String("session", spec.ID))
	return session, nil
}
