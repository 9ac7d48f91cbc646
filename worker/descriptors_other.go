//go:build !unix

package worker

import (
	"errors"
	"net"
	"os"
)

func keepDescriptors() {}

func openDescriptors() (net.Conn, *os.File, error) {
	return nil, nil, errors.New("this system can't inherit descriptors; use a driver that runs workers elsewhere")
}
