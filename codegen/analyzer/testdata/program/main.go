// Command program writes variables that functions read which another package and it itself wrap.
package main // want `^SBX013: epochs reads Epochs \(train.go:35\), which main writes \(program/main.go:21\): .* \(wrapped in train.go:51\)$` `^SBX013: epochs reads other.level \(other/other.go:10\), which SetLevel writes \(other/other.go:7\): .* \(wrapped in train.go:51\)$`

import (
	"context"
	"flag"

	"example.com/m/other"
	"example.com/m/train"
	"github.com/sandboxfn/sbx"
)

var batch = flag.Int("batch", 16, "")

type shape interface{ Area() float64 }

func own(ctx context.Context, s shape) (int, error) { return *batch, nil }

func main() {
	flag.Parse()
	train.Epochs = 3
	train.Known = 4
	other.SetLevel(5)
	session := &sbx.Session{}
	train.Wrap(session, nil)
	session.Function(own) // want `^SBX013: own reads batch \(main.go:17\), which parsing the flags writes \(main.go:20\): main doesn't run in the sandbox` `^SBX014: shape is an interface`
}
