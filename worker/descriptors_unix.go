//go:build unix

package worker

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// The descriptors that a driver leaves open; package driver, which worker must not import, names them for drivers.
const (
	connFD      = 3
	handshakeFD = 4
)

// keepDescriptors keeps the protocol's descriptors from processes that user code starts.
func keepDescriptors() {
	syscall.CloseOnExec(connFD)
	syscall.CloseOnExec(handshakeFD)
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
