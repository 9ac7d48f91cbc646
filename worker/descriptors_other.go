//go:build !unix

package worker

import (
	"errors"
	"net"
	"os"

	"github.com/sandboxfn/sbx/internal/ledger"
)

func keepDescriptors() {}

func openLedger() *ledger.Ledger { return nil }

func openDescriptors() (net.Conn, *os.File, error) {
	return nil, nil, errors.New("this system can't inherit descriptors; use a driver that runs workers elsewhere")
}
