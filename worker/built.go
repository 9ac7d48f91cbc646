package worker

import (
	"fmt"
	"os"
	"runtime"
)

// Built is Divert in a binary that sbxgen built to be a worker and nothing else; only the code that sbxgen compiles into it calls it.
// The manifest describes the binary, for those who look for it in the file.
func Built(manifest string) {
	runtime.KeepAlive(manifest) // else it might not be in the file
	if boot == nil {
		fmt.Fprintln(os.Stderr, "sbx: this is a worker, which a session starts in a sandbox; alone it does nothing")
		os.Exit(2)
	}
	becomeWorker()
}

// An Embedded is a worker that is part of this program.
type Embedded struct {
	// Platform is what the worker runs on: "linux/amd64".
	Platform string
	// Sum is the SHA-256 of the executable, in hexadecimal digits.
	Sum string
	// Gzip is the executable, compressed.
	Gzip string
}

var embedded []Embedded

// Embed makes a worker known to the program's sessions. Code that sbxgen compiles into a program calls it, by init functions.
func Embed(worker Embedded) { embedded = append(embedded, worker) }

// EmbeddedFor returns the program's worker for a platform.
func EmbeddedFor(platform string) (Embedded, bool) {
	for _, worker := range embedded {
		if worker.Platform == platform {
			return worker, true
		}
	}
	return Embedded{}, false
}
