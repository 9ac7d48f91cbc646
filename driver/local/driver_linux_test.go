package local_test

import (
	"testing"

	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/local"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, local.New(nil), drivertest.Features{Processes: true, Isolation: true, Mounts: true, WritableMounts: true})
}
