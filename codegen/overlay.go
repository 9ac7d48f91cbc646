package codegen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// An overlay gives files other contents while the go command builds; nil means that the file isn't there.
type overlay map[string][]byte

// write puts the overlay into a folder, and returns the file that go build's -overlay reads. More may add files that are on disk
// already; it is nil if there are none.
func (o overlay) write(dir string, more func(temp string, add func(target, source string)) error) (string, error) {
	replace := map[string]string{}
	if more != nil {
		if err := more(dir, func(target, source string) { replace[target] = source }); err != nil {
			return "", err
		}
	}
	for i, path := range slices.Sorted(maps.Keys(o)) {
		if o[path] == nil {
			replace[path] = ""
			continue
		}
		name := filepath.Join(dir, strconv.Itoa(i)+"-"+filepath.Base(path))
		if err := os.WriteFile(name, o[path], 0o600); err != nil {
			return "", err
		}
		replace[path] = name
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

// overlay brings the generated files up to date in memory.
func (p *mainPackage) overlay() overlay {
	o := overlay{}
	for path, source := range p.wanted {
		o[path] = source
	}
	for path := range p.unneeded {
		o[path] = nil
	}
	return o
}

// divertBuilt makes the program a worker and nothing else. Its function main gets the name _: the compiler checks such a
// function and then drops it, so the linker drops all that only main reached, and no import is left unused. A new main, which is
// never called, goes into the diverting file.
func (p *Plan) divertBuilt(o overlay) error {
	path, source, err := p.renameMain(o)
	if err != nil {
		return err
	}
	o[path] = source
	unit := p.main.unit
	name, _ := divertingName(unit)
	w := &writer{pkg: unit.pkg.Types, taken: nameTaken([]*types.Package{unit.pkg.Types}), aliases: map[string]string{}}
	divert := fmt.Sprintf("%s.Built(%q)", w.use(sbxPath+"/worker", "worker"), p.Manifest.Text())
	o[filepath.Join(unit.dir, name)] = append(w.file([]string{divert}), "\nfunc main() {}\n"...)
	return nil
}

// renameMain returns the file that declares main on the target, with the function renamed.
func (p *Plan) renameMain(o overlay) (path string, source []byte, err error) {
	for _, file := range p.mainFiles {
		if _, ok := o[file]; ok {
			continue // ours
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		if name := mainIn(source); name >= 0 {
			return file, slices.Concat(source[:name], []byte("_"), source[name+len("main"):]), nil
		}
	}
	return "", nil, fmt.Errorf("%s has no function main on %s", p.Manifest.Package, p.target)
}

// mainIn returns the offset of the name of function main in a file, or -1.
func mainIn(source []byte) int {
	if !bytes.Contains(source, []byte("main")) {
		return -1
	}
	files := token.NewFileSet()
	syntax, err := parser.ParseFile(files, "", source, parser.SkipObjectResolution)
	if err != nil {
		return -1 // the build says so
	}
	for _, decl := range syntax.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "main" {
			return files.File(fn.Pos()).Offset(fn.Name.Pos())
		}
	}
	return -1
}
