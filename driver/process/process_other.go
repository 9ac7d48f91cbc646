//go:build !unix

package process

import (
	"context"
	"errors"

	"github.com/sandboxfn/sbx/driver"
)

func open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, &driver.UnavailableError{
		Driver:   "process",
		Err:      errors.New("this system can't hand open descriptors to a new process"),
		Remedies: []string{"run the program on Linux or macOS"},
	}
}
