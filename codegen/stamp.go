package codegen

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sandboxfn/sbx/internal/artifact"
	"golang.org/x/mod/modfile"
)

// A stamp remembers that a run found nothing to say or do, and what it had looked at, so that the next one can tell that nothing has
// changed without loading anything. It compares contents, not times.
type stamp struct {
	file   string // where it is kept
	inputs string // a hash of all that a run reads, but for generated files
}

// inputExtensions are those of files that can change what a run finds. C is among them because cgo makes Go types of it.
var inputExtensions = []string{
	".go", ".mod", ".sum", ".work", ".s", ".S", ".c", ".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx", ".m", ".f", ".swig", ".swigcxx",
}

// newStamp looks at the files as they are now; where it can't, there is nothing to compare with, and the go command says why. dir is the folder for stamps.
func (m *module) newStamp(dir string, config Config, old map[string]oldFile) (*stamp, error) {
	h := sha256.New()
	self, err := os.Executable()
	if err == nil {
		err = hashFile(h, self)
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(h, "%s\n%s\n%q\n", m.env, m.tags, config.Patterns)
	trees, err := m.trees()
	if err != nil {
		return nil, err
	}
	for _, tree := range trees {
		if err := hashTree(h, tree, old); err != nil {
			return nil, err
		}
	}
	for _, file := range []string{m.work, m.work + ".sum"} {
		if err := hashFile(h, file); m.work != "" && err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	// What a run by hand removes, one under go generate leaves empty, and a check accepts.
	name := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%q\n%t %t", m.root, m.dir, m.tags, config.Patterns, config.Check, config.GoGenerate))
	return &stamp{
		file:   filepath.Join(dir, hex.EncodeToString(name[:16])),
		inputs: hex.EncodeToString(h.Sum(nil)),
	}, nil
}

// trees are the folders of the modules whose source can change: the main one, those that replace others, and those of the workspace.
func (m *module) trees() ([]string, error) {
	trees := []string{m.root}
	add := func(base, path string) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(base, path)
		}
		if !slices.Contains(trees, path) {
			trees = append(trees, path)
		}
	}
	text, err := os.ReadFile(filepath.Join(m.root, "go.mod"))
	if err != nil {
		return nil, err
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return nil, err
	}
	replaced := mod.Replace
	if m.work != "" {
		text, err := os.ReadFile(m.work)
		if err != nil {
			return nil, err
		}
		work, err := modfile.ParseWork("go.work", text, nil)
		if err != nil {
			return nil, err
		}
		for _, use := range work.Use {
			add(filepath.Dir(m.work), use.Path)
		}
		for _, r := range work.Replace {
			if modfile.IsDirectoryPath(r.New.Path) {
				add(filepath.Dir(m.work), r.New.Path)
			}
		}
	}
	for _, r := range replaced {
		if modfile.IsDirectoryPath(r.New.Path) {
			add(m.root, r.New.Path)
		}
	}
	return trees, nil
}

// hashTree hashes the sources in a folder, but for the generated files of the main module, and for nested modules.
func hashTree(h hash.Hash, root string, generated map[string]oldFile) error {
	return walkModule(root, true, func(path string, entry fs.DirEntry) error {
		name := entry.Name()
		if name != "modules.txt" && !slices.Contains(inputExtensions, filepath.Ext(name)) {
			return nil
		}
		if _, ok := generated[path]; ok {
			return nil
		}
		fmt.Fprintf(h, "%s\n", path)
		if err := hashFile(h, path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nowhere
			return err
		}
		return nil
	})
}

// hashFile adds a hash of a file's contents.
func hashFile(h hash.Hash, path string) error {
	sum, err := artifact.HashFile(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%s\n", sum)
	return nil
}

// whole is what the stamp's file holds if nothing has changed: the generated files count, too.
func (s *stamp) whole(generated []string) (string, error) {
	h := sha256.New()
	for _, path := range slices.Sorted(slices.Values(generated)) {
		fmt.Fprintf(h, "%s\n", path)
		if err := hashFile(h, path); err != nil {
			return "", err
		}
	}
	return s.inputs + " " + hex.EncodeToString(h.Sum(nil)) + "\n", nil
}

// fresh reports whether a run with the same inputs found nothing to do, and generated files are as it left them.
func (s *stamp) fresh(old map[string]oldFile) bool {
	kept, err := os.ReadFile(s.file)
	if err != nil {
		return false
	}
	now, err := s.whole(slices.Collect(maps.Keys(old)))
	return err == nil && bytes.Equal(kept, []byte(now))
}

// keep remembers that with these inputs the generated files are as they should be. That it can't is nobody's trouble.
func (s *stamp) keep(root string) {
	old, err := generatedFiles(root)
	if err != nil {
		return
	}
	text, err := s.whole(slices.Collect(maps.Keys(old)))
	if err != nil {
		return
	}
	_ = writeFile(s.file, []byte(text))
}
