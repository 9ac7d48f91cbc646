//go:build sbxworker

package sbx

import "github.com/sandboxfn/sbx/driver"

// defaultDriver is never called in a worker that sbxgen built: Open fails there before it needs a driver. So workers don't
// carry one.
func defaultDriver() driver.Driver { return nil }
