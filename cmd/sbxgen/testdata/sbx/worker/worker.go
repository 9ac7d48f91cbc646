// Package worker stands in for the real one: with WORKER set to a number, that call of Divert prints what is registered by
// then and exits.
package worker

import (
	"fmt"
	"os"
	"strconv"

	"github.com/sandboxfn/sbx/registry"
)

var calls int

func Divert() {
	calls++
	if os.Getenv("WORKER") != strconv.Itoa(calls) {
		return
	}
	for _, name := range registry.Names {
		fmt.Println(name)
	}
	os.Exit(0)
}
