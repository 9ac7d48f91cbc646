package codegen

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/internal/artifact"
)

// An oldFile is a file that has the name of a generated one.
type oldFile struct {
	ours   bool // sbxgen wrote it; it may be overwritten and removed
	hidden bool // its build constraint hides it from the generator
}

// generatedFiles finds the files in the module that have the name of a generated one, in the folders that the pattern
// ./... looks at. What isn't a regular file is the user's.
func generatedFiles(root string) (map[string]oldFile, error) {
	old := map[string]oldFile{}
	err := walkModule(root, false, func(path string, entry fs.DirEntry) (err error) {
		if !artifact.IsGenerated(entry.Name()) {
			return nil
		}
		if !entry.Type().IsRegular() {
			old[path] = oldFile{}
			return nil
		}
		old[path], err = readOld(path)
		return err
	})
	return old, err
}

// walkModule visits the files of a module, in the folders that can be packages of it; in the folder vendor only if that is asked for.
func walkModule(root string, vendor bool, visit func(path string, entry fs.DirEntry) error) error {
	root = folder(root)
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case !entry.IsDir():
			return visit(path, entry)
		case path == root:
			return nil
		case strings.HasPrefix(name, "."), strings.HasPrefix(name, "_"), name == "testdata", name == "vendor" && !vendor:
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
			return fs.SkipDir // another module
		}
		return nil
	})
}

// folder makes a path one that filepath.WalkDir goes into even if it is a symbolic link.
func folder(path string) string { return filepath.Clean(path) + string(filepath.Separator) }

// readOld looks at the beginning of a file. An empty one counts as ours, cut off while it was written.
func readOld(path string) (oldFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return oldFile{}, err
	}
	defer file.Close()
	start := make([]byte, len(header)+len(advice)+len(hiding)+16)
	n, err := io.ReadFull(file, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return oldFile{}, err
	}
	lines := strings.Split(string(unixLines(start[:n])), "\n")
	return oldFile{
		ours:   n == 0 || hasHeader(lines),
		hidden: len(lines) > 4 && slices.Equal(lines[:4], []string{header, advice, "", hiding}),
	}, nil
}

// hasHeader reports whether the header is above the package clause; it is not the first line where a merge was not finished, say.
func hasHeader(lines []string) bool {
	for _, line := range lines {
		switch {
		case line == header:
			return true
		case strings.HasPrefix(line, "package "):
			return false
		}
	}
	return false
}

// stale returns the generated files that are no longer wanted: those of the packages that were looked at, and those in
// folders where nothing else is left. With each comes what it holds when it is emptied.
func stale(old map[string]oldFile, wanted map[string][]byte, units []*unit, selected map[string]bool) map[string][]byte {
	dirs := map[string]bool{}
	names := map[string]string{} // folder → name of its package
	all := true
	for _, u := range units {
		dirs[u.dir] = dirs[u.dir] || selected[u.path]
		all = all && selected[u.path]
		names[u.dir] = u.pkg.Name
		if u.kind == externalTest {
			names[u.dir] = strings.TrimSuffix(u.pkg.Name, "_test")
		}
	}
	unneeded := map[string][]byte{}
	for path, file := range old {
		if _, ok := wanted[path]; ok || !file.ours {
			continue
		}
		looked, loaded := dirs[filepath.Dir(path)]
		if looked || !loaded && all && isLeftAlone(filepath.Dir(path)) {
			name := names[filepath.Dir(path)]
			switch {
			case !looked:
				name = packageName(path)
			case strings.HasSuffix(path, registrationNames[externalTest]):
				name += "_test"
			}
			unneeded[path] = empty(name)
		}
	}
	return unneeded
}

// packageName is the name in a file's package clause. A file that has none, an empty one, gets a name that serves: it is
// alone.
func packageName(path string) string {
	syntax, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly)
	if err != nil {
		return "empty"
	}
	return syntax.Name.Name
}

// isLeftAlone reports whether all Go files of a folder have names of generated ones.
func isLeftAlone(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		return strings.HasSuffix(entry.Name(), ".go") && !artifact.IsGenerated(entry.Name())
	})
}

// apply brings the files to what is wanted and does away with those that are unneeded, or with config.Check only says
// what it would do.
func apply(wanted, unneeded map[string][]byte, config Config) ([]File, error) {
	var files []File
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		change, err := bring(path, wanted[path], Written, config.Check)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: path, Change: change, Source: wanted[path]})
	}
	for _, path := range slices.Sorted(maps.Keys(unneeded)) {
		change, err := discard(path, unneeded[path], config)
		if err != nil {
			return nil, err
		}
		file := File{Path: path, Change: change}
		if config.GoGenerate {
			file.Source = unneeded[path]
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// bring gives a file its content, unless it has it. It returns change if there was something to do.
func bring(path string, content []byte, change Change, check bool) (Change, error) {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err == nil && bytes.Equal(unixLines(old), content) {
		return Unchanged, nil
	}
	if !check {
		if err := writeFile(path, content); err != nil {
			return "", fmt.Errorf("write %s: %w", path, err)
		}
	}
	return change, nil
}

// unixLines undoes what git does to text on Windows.
func unixLines(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) }

// discard empties or removes a file that is no longer needed.
func discard(path string, emptied []byte, config Config) (Change, error) {
	if config.GoGenerate {
		return bring(path, emptied, Emptied, config.Check)
	}
	if config.Check {
		return bring(path, emptied, Removed, true)
	}
	return Removed, os.Remove(path)
}

// writeFile replaces a file at once. The temporary name starts with a dot, so that the go command never takes it for source.
func writeFile(path string, content []byte) error {
	return artifact.ReplaceFile(path, 0o644, bytes.NewReader(content))
}
