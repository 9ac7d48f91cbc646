//go:build !unix || sbxworker

package worker

import (
	"os"

	"github.com/sandboxfn/sbx/internal/wire"
)

func superviseCovered(wire.Boot, *os.File) {}

func runNoTest() {}
