package sbx

import "os"

// endBy ends the program with the exit status that shells give to an interrupt.
func endBy(os.Signal) {
	restoreTerminal()
	os.Exit(130)
}
