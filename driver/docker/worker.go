//go:build sbxworker

package docker

import (
	"context"
	"errors"

	"github.com/sandboxfn/sbx/driver"
)

// Open is never called in a worker that sbxgen built: sbx.Open fails there before it needs a driver. So workers don't carry what talks to an engine.
func (dockerDriver) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, errors.New("docker: a worker opens no session")
}
