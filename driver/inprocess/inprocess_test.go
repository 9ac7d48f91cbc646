package inprocess_test

import (
	"testing"

	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	drivertest.Run(t, inprocess.New(nil), drivertest.Features{})
}
