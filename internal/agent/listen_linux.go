package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	// greetTime is how long somebody who connects has to show the driver's key.
	greetTime = 10 * time.Second
	// callers is how many may try at a time. More wait.
	callers = 1024
)

// listen waits for the driver, and takes nobody else for it.
func listen(boot Listen) (net.Conn, error) {
	identity, err := NewIdentity()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(boot.Port))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(boot.Wait, Patience))
	defer cancel()
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	if _, err := fmt.Fprintln(os.Stdout, Listens(identity.Key)); err != nil {
		return nil, err
	}
	found, places := make(chan net.Conn), make(chan struct{}, callers)
	go func() {
		for {
			places <- struct{}{}
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { <-places }()
				secured := tls.Server(conn, identity.TLS(boot.Client))
				greeting, cancel := context.WithTimeout(ctx, greetTime)
				defer cancel()
				if err := secured.HandshakeContext(greeting); err != nil {
					_ = conn.Close()
					return
				}
				select {
				case found <- secured:
				case <-ctx.Done():
					_ = conn.Close()
				}
			}()
		}
	}()
	select {
	case conn := <-found:
		return conn, nil
	case <-ctx.Done():
		return nil, errors.New("the driver did not come")
	}
}
