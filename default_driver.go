//go:build !sbxworker

package sbx

import (
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

func defaultDriver() driver.Driver { return local.New(nil) }
