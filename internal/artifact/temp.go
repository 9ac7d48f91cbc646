package artifact

import (
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// longestBuild is how old a folder of a build must be to be one that nobody uses any more.
const longestBuild = 24 * time.Hour

var buildFolder = regexp.MustCompile(`^sbxgen-build-[0-9]+$`)

// MakeTemp makes a folder for what a build needs while it runs. It removes those that builds have left which were killed.
func MakeTemp() (string, error) {
	dir := os.TempDir()
	entries, _ := os.ReadDir(dir) // without it nothing is removed
	for _, entry := range entries {
		if !entry.IsDir() || !buildFolder.MatchString(entry.Name()) {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > longestBuild {
			_ = os.RemoveAll(filepath.Join(dir, entry.Name())) // it may be another user's
		}
	}
	return os.MkdirTemp(dir, "sbxgen-build-*")
}
