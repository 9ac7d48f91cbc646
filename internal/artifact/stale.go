package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Stale compares a worker's sources with the files below root, the module's folder, and returns the first difference as a
// phrase such as "train.go has changed". Empty means that there is none.
func (m *Manifest) Stale(root string) (string, error) {
	known := map[string]bool{}
	dirs := map[string]bool{}
	for _, source := range m.Sources {
		known[source.Path] = true
		if path.Ext(source.Path) == ".go" {
			dirs[path.Dir(source.Path)] = true
		}
	}
	for _, source := range m.Sources {
		sum, err := HashFile(filepath.Join(root, filepath.FromSlash(source.Path)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return source.Path + " is gone", nil
		case err != nil:
			return "", fmt.Errorf("compare the worker's sources: %w", err)
		case sum != source.Sum:
			return source.Path + " has changed", nil
		}
	}
	for dir := range dirs {
		names, err := SourceFiles(filepath.Join(root, filepath.FromSlash(dir)))
		if err != nil {
			return "", fmt.Errorf("compare the worker's sources: %w", err)
		}
		for _, name := range names {
			if p := path.Join(dir, name); !known[p] {
				return p + " is new", nil
			}
		}
	}
	return "", nil
}

// SourceFiles returns the names of the Go files in a folder that can be part of its package, sorted. A manifest lists all of
// them, whatever the platform, so that a new one can be told.
func SourceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") &&
			!strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
