//go:build !unix

package worker

import (
	"errors"
	"net"
	"os"

	"github.com/sandboxfn/sbx/internal/ledger"
)

func keepDescriptors() *os.File { return nil }

func openLedger() *ledger.Ledger { return nil }

func openDirect() net.Conn { return nil }

func openConn() (net.Conn, error) {
	return nil, errors.New("this system can't inherit descriptors; use a driver that runs workers elsewhere")
}
