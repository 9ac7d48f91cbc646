package launch

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

// maxCoverage bounds the counters that are taken from a sandbox.
const maxCoverage = 16 << 20

// coverageFolder returns the folder into which this program's own coverage goes, and whether it is a test binary; no folder if
// it was not built with -cover or nobody wants to know.
func coverageFolder() (folder string, test bool) {
	if flagged := flag.Lookup("test.gocoverdir"); flagged != nil {
		return flagged.Value.String(), true
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || !slices.Contains(info.Settings, debug.BuildSetting{Key: "-cover", Value: "true"}) {
		return "", false
	}
	return os.Getenv("GOCOVERDIR"), false
}

// The beginning and the end of a file of counters: its magic number, a version in four bytes, and the hash of the program that
// it is about; the magic number again in the last sixteen bytes.
const (
	counterMagic  = "\x00cwm"
	counterHash   = 8
	counterHeader = 32
	counterFooter = 16
)

// lastCounters makes the names of this process's files differ.
var lastCounters atomic.Int64

func init() { lastCounters.Store(time.Now().UnixNano()) }

// keepCoverage writes a worker's counters beside this program's own. They come from a sandbox: what isn't the beginning and the end of
// such a file isn't kept, and the name is made here. The rest is not checked; a worker can lie about what it ran.
func keepCoverage(folder string, counters []byte) error {
	magic := []byte(counterMagic)
	if len(counters) < counterHeader+counterFooter || !bytes.HasPrefix(counters, magic) ||
		!bytes.HasPrefix(counters[len(counters)-counterFooter:], magic) {
		return fmt.Errorf("coverage of a sandbox: %d bytes that are not a file of counters", len(counters))
	}
	hash := counters[counterHash : counterHash+16]
	name := fmt.Sprintf("covcounters.%x.%d.%d", hash, os.Getpid(), lastCounters.Add(1))
	// Under another name first: whoever reads the folder finds whole files.
	path := filepath.Join(folder, name)
	temporary := filepath.Join(folder, "tmp."+name)
	if err := os.WriteFile(temporary, counters, 0o666); err != nil {
		return fmt.Errorf("coverage of a sandbox: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("coverage of a sandbox: %w", err)
	}
	return nil
}
