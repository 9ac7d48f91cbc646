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

// Stale compares a worker's sources with the files that there are, and returns the first difference as a phrase such as
// "train.go has changed". Empty means that there is none. folders has the folder of each module by its path, that of the main
// module by "".
func (m *Manifest) Stale(folders map[string]string) (string, error) {
	known := map[Source]bool{} // without sums
	dirs := map[Source]bool{}
	locate := func(s Source) (string, error) {
		folder := folders[s.Module]
		if folder == "" {
			return "", fmt.Errorf("nothing is known of where module %s is", s.Module)
		}
		return filepath.Join(folder, filepath.FromSlash(s.Path)), nil
	}
	for _, source := range m.Sources {
		file, err := locate(source)
		if err != nil {
			return "", err
		}
		sum, err := HashFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return source.String() + " is gone", nil
		case err != nil:
			return "", fmt.Errorf("compare the worker's sources: %w", err)
		case sum != source.Sum:
			return source.String() + " has changed", nil
		}
		known[Source{Module: source.Module, Path: source.Path}] = true
		if path.Ext(source.Path) == ".go" {
			dirs[Source{Module: source.Module, Path: path.Dir(source.Path)}] = true
		}
	}
	for dir := range dirs {
		folder, err := locate(dir)
		if err != nil {
			return "", err
		}
		names, err := SourceFiles(folder)
		if err != nil {
			return "", fmt.Errorf("compare the worker's sources: %w", err)
		}
		for _, name := range names {
			if s := (Source{Module: dir.Module, Path: path.Join(dir.Path, name)}); !known[s] {
				return s.String() + " is new", nil
			}
		}
	}
	return "", nil
}

// SourceFiles returns the names of the Go files in a folder that can be part of its package, sorted, without generated ones. A
// manifest lists all of them, whatever the platform, so that a new one can be told.
func SourceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") &&
			!strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_") && !IsGenerated(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// IsGenerated reports whether a file that sbxgen generates can have the name: "sbx_gen.go", "zz_sbx_gen_test.go". What is in
// them follows from the other files.
func IsGenerated(name string) bool {
	unprefixed := strings.TrimLeft(name, "z")
	rest, ok := strings.CutPrefix(unprefixed, "_")
	diverting := ok && len(name)-len(unprefixed) >= 2 && slices.Contains(generatedNames, rest)
	return diverting || slices.Contains(generatedNames, name)
}

var generatedNames = []string{"sbx_gen.go", "sbx_gen_test.go", "sbx_gen_external_test.go"}
