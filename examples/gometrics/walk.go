package main

import (
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// walk yields the package of every folder under root that has Go files, tests left out. Test data, vendored modules and
// folders that the go command ignores are passed over, and so is cmd at the top: the commands are not the library.
//
// It reads as it is asked, so only the packages that are on their way are in memory. It goes on after an error; failed
// is told of each.
func walk(root string, failed func(error)) iter.Seq[Package] {
	return func(yield func(Package) bool) {
		visit := func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				failed(err)
				return nil
			}
			if !entry.IsDir() {
				return nil
			}
			if path != root && ignored(entry.Name()) || path == filepath.Join(root, "cmd") {
				return fs.SkipDir
			}
			files, err := readPackage(path)
			if err != nil {
				failed(err)
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				failed(err)
				return nil
			}
			if len(files) > 0 && !yield(Package{Path: filepath.ToSlash(name), Files: files}) {
				return fs.SkipAll
			}
			return nil
		}
		if err := filepath.WalkDir(root, visit); err != nil {
			failed(err)
		}
	}
}

func ignored(name string) bool {
	return name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

// readPackage returns the files that it could read, and the first error.
func readPackage(folder string) ([]File, error) {
	entries, failed := os.ReadDir(folder)
	var files []File
	for _, entry := range entries {
		name := entry.Name()
		if !entry.Type().IsRegular() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			if failed == nil {
				failed = err
			}
			continue
		}
		files = append(files, File{Name: name, Source: string(source)})
	}
	return files, failed
}
