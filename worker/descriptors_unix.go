//go:build unix

package worker

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/sandboxfn/sbx/internal/ledger"
)

// The descriptors that a driver leaves open; package driver, which worker must not import, names them for drivers.
const (
	connFD      = 3
	handshakeFD = 4
	ledgerFD    = 5
)

// keepDescriptors keeps the protocol's descriptors from processes that user code starts.
func keepDescriptors() {
	syscall.CloseOnExec(connFD)
	syscall.CloseOnExec(handshakeFD)
	syscall.CloseOnExec(ledgerFD)
}

// openLedger returns nil where the driver gives no ledger.
func openLedger() *ledger.Ledger {
	file := os.NewFile(ledgerFD, "ledger")
	defer func() { _ = file.Close() }()
	l, err := ledger.Map(file)
	if err != nil {
		return nil
	}
	return l
}

func openDescriptors() (net.Conn, *os.File, error) {
	file := os.NewFile(connFD, "connection")
	defer func() { _ = file.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, nil, fmt.Errorf("descriptor %d is not the session's connection: %w", connFD, err)
	}
	return conn, os.NewFile(handshakeFD, "handshake"), nil
}
