//go:build unix

package process_test

import (
	"testing"

	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/process"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	drivertest.Run(t, process.New(), drivertest.Features{Processes: true})
}
