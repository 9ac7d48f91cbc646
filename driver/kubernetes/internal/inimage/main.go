// Command inimage makes one call in a sandbox of the driver that SBX_DRIVER names, by the worker that sbxgen built for it. The driver's tests
// have that worker in an image.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sandboxfn/sbx"
	_ "github.com/sandboxfn/sbx/driver/kubernetes"
)

//go:generate go tool sbxgen

// Own is the name of the file that runs in the sandbox.
func Own(context.Context, struct{}) (string, error) { return os.Readlink("/proc/self/exe") }

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.DriverFromEnv(), sbx.BuiltWorker())
	if err != nil {
		return err
	}
	defer session.Close()
	own, err := session.Function(Own).Call(ctx, struct{}{})
	if err != nil {
		return err
	}
	fmt.Println(own)
	return nil
}
