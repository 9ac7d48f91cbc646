//go:build !linux

package local

import (
	"context"
	"errors"
	"runtime"

	"github.com/sandboxfn/sbx/driver"
)

// Open fails: namespaces are Linux's.
func (localDriver) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, &driver.UnavailableError{
		Driver: driverName,
		Err:    errors.New("it needs Linux namespaces, and this is " + runtime.GOOS),
		Remedies: []string{
			"run the program on Linux, in a virtual machine or a container if need be",
			"use sbx.Driver(process.New()) of driver/process, which isolates nothing",
		},
	}
}
