// Command sbxgen stands in for the real one: it runs the sbxgen under test, which the scripts find in PATH.
package main

import (
	"os"
	"os/exec"
)

func main() {
	cmd := exec.Command("sbxgen", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if cmd.Run() != nil {
		os.Exit(cmd.ProcessState.ExitCode())
	}
}
