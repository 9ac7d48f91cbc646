//go:build unix

package worker

import (
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/sandboxfn/sbx/internal/ledger"
)

// The descriptors that a driver leaves open; package driver, which worker must not import, names them for drivers.
const (
	connFD      = 3
	handshakeFD = 4
	ledgerFD    = 5
	directFD    = 6
)

// keepDescriptors keeps the protocol's descriptors from processes that user code starts, and returns the handshake's. From
// here on the Go runtime prints a crash there too, whatever becomes of standard error.
func keepDescriptors() *os.File {
	syscall.CloseOnExec(connFD)
	syscall.CloseOnExec(handshakeFD)
	syscall.CloseOnExec(ledgerFD)
	syscall.CloseOnExec(directFD)
	handshake := os.NewFile(handshakeFD, "handshake")
	// If this fails, a crash looks like any other exit with status 2. So would fatal errors if GOTRACEBACK were none: a higher
	// level that it has stays.
	_ = debug.SetCrashOutput(handshake, debug.CrashOptions{})
	debug.SetTraceback("single")
	return handshake
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

// openDirect returns nil where the driver gives no such socket.
func openDirect() net.Conn {
	file := os.NewFile(directFD, "direct")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	return conn
}

func openConn() (net.Conn, error) {
	file := os.NewFile(connFD, "connection")
	defer func() { _ = file.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is not the session's connection: %w", connFD, err)
	}
	return conn, nil
}
