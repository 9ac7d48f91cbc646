//go:build unix

package sbx

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endBy ends the program by a signal, so that whoever waits for it sees that.
func endBy(got os.Signal) {
	restoreTerminal()
	number := got.(syscall.Signal)
	signal.Reset(number)
	if os.Getpid() != 1 { // which no signal ends by default
		_ = syscall.Kill(os.Getpid(), number)
		time.Sleep(time.Second) // it is on its way
	}
	os.Exit(128 + int(number))
}
