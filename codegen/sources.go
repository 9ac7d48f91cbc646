package codegen

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/internal/artifact"
)

// workerTags are the build tags of every built worker. The first leaves package sbx without its default driver, which needs
// no place in a sandbox. The second leaves gRPC without its pages for tracing, whose templates keep the linker from dropping
// methods that nobody calls.
const workerTags = "sbxworker,grpcnotrace"

// A listed package is what go list says of one.
type listed struct {
	ImportPath, Dir string
	Standard        bool
	Module          *struct {
		Path, Version, GoMod, Dir string
		Main                      bool
	}
	GoFiles, CgoFiles, CFiles, CXXFiles, MFiles, HFiles, FFiles, SFiles, SwigFiles, SwigCXXFiles, SysoFiles, EmbedFiles []string
}

const listedFields = "ImportPath,Dir,Standard,Module,GoFiles,CgoFiles,CFiles,CXXFiles,MFiles,HFiles,FFiles,SFiles,SwigFiles,SwigCXXFiles,SysoFiles,EmbedFiles"

// files are the names of all files that a build of the package reads.
func (l *listed) files() []string {
	return slices.Concat(l.GoFiles, l.CgoFiles, l.CFiles, l.CXXFiles, l.MFiles, l.HFiles, l.FFiles, l.SFiles,
		l.SwigFiles, l.SwigCXXFiles, l.SysoFiles, l.EmbedFiles)
}

// plan finds out what goes into the program's worker for a target.
func (p *mainPackage) plan(ctx context.Context, t *target) (_ *Plan, err error) {
	tags := workerTags
	if p.module.userTags != "" {
		tags = p.module.userTags + "," + workerTags
	}
	packages, cgo, err := p.listAll(ctx, t, tags)
	if err != nil {
		return nil, err
	}
	m := &artifact.Manifest{
		Go: t.settings["GOVERSION"], Platform: t.String(), Package: p.unit.pkg.PkgPath,
		Settings: []string{"CGO_ENABLED=" + cgo, "-tags=" + tags},
	}
	for _, name := range settingsThatMatter {
		if value := t.settings[name]; value != "" && name != "GOVERSION" {
			m.Settings = append(m.Settings, name+"="+value)
		}
	}
	m.Functions, m.Types = p.functions()
	var main *listed
	for _, l := range packages {
		if l.ImportPath == sbxPath+"/worker" && l.Module != nil {
			m.SBX = l.Module.Version
			if l.Module.Main || m.SBX == "" {
				m.SBX = "(devel)"
			}
		}
		if l.ImportPath == p.unit.pkg.PkgPath || l.ImportPath == "command-line-arguments" {
			main = l
		}
	}
	if main == nil {
		return nil, fmt.Errorf("go list says nothing of %s for %s", p.unit.pkg.PkgPath, t)
	}
	plan := &Plan{Manifest: m, Dir: p.unit.dir, main: p, target: t}
	if m.Sources, plan.Folders, err = p.module.sources(packages, p.unit.dir); err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(main.GoFiles, main.CgoFiles) {
		plan.mainFiles = append(plan.mainFiles, filepath.Join(main.Dir, name))
	}
	return plan, nil
}

// listAll lists the program's package and all that it imports, as they are built for the target, and says which value of
// CGO_ENABLED that takes.
//
// Workers are static, and C is left out where it can be: that is, where only the standard library would use it.
func (p *mainPackage) listAll(ctx context.Context, t *target, tags string) ([]*listed, string, error) {
	asked := os.Getenv("CGO_ENABLED")
	if asked == "0" {
		packages, err := p.list(ctx, t, tags, asked)
		return packages, asked, err
	}
	packages, err := p.list(ctx, t, tags, "1")
	if err != nil {
		return nil, "", err
	}
	for _, l := range packages {
		switch {
		case l.Standard || len(l.CgoFiles) == 0:
		case t.local() || asked == "1":
			return packages, "1", nil
		default:
			return nil, "", &UsageError{fmt.Sprintf("%s uses cgo, so its worker for %s can't be built without a C compiler for that platform: "+
				"name one with CC and set CGO_ENABLED=1; or set CGO_ENABLED=0, if the package has a variant without C", l.ImportPath, t)}
		}
	}
	packages, err = p.list(ctx, t, tags, "0")
	return packages, "0", err
}

func (p *mainPackage) list(ctx context.Context, t *target, tags, cgo string) (_ []*listed, err error) {
	temp, err := artifact.MakeTemp()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	file, err := p.overlay().write(temp, nil)
	if err != nil {
		return nil, err
	}
	out, err := t.run(ctx, p.unit.dir, []string{"CGO_ENABLED=" + cgo}, slices.Concat([]string{"list"}, plainBuild, []string{"-deps", "-json=" + listedFields, "-tags=" + tags, "-overlay=" + file, "."})...)
	if err != nil {
		return nil, err
	}
	var packages []*listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		l := new(listed)
		switch err := decoder.Decode(l); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		packages = append(packages, l)
	}
}

// sources hashes what goes into a build, but for the standard library, downloaded modules, and generated files, which follow
// from the rest. It returns the folders of the modules, too.
func (m *module) sources(packages []*listed, mainDir string) ([]artifact.Source, map[string]string, error) {
	folders := map[string]string{"": m.root}
	files := map[string]string{} // path → module
	add := func(module, dir string, names ...string) {
		for _, name := range names {
			if !artifact.IsGenerated(name) {
				files[filepath.Join(dir, name)] = module
			}
		}
	}
	for _, l := range packages {
		if l.Standard || l.Dir == "" || isWithin(l.Dir, m.cache) {
			continue
		}
		name := "" // also what is vendored
		if l.Module != nil && l.Module.Dir != "" && l.Module.Dir != m.root {
			name = l.Module.Path
			folders[name] = l.Module.Dir
			add(name, filepath.Dir(l.Module.GoMod), filepath.Base(l.Module.GoMod))
		}
		add(name, l.Dir, l.files()...)
		all, err := artifact.SourceFiles(l.Dir)
		if err != nil {
			return nil, nil, fmt.Errorf("look for source files: %w", err)
		}
		add(name, l.Dir, all...)
	}
	add("", m.root, "go.mod")
	optional := []string{
		filepath.Join(m.root, "go.sum"), filepath.Join(m.root, "vendor", "modules.txt"), filepath.Join(mainDir, "default.pgo"),
	}
	if m.work != "" {
		optional = append(optional, m.work, m.work+".sum")
	}
	for _, path := range optional {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			files[path] = ""
		}
	}
	var sources []artifact.Source
	for path, module := range files {
		sum, err := artifact.HashFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("hash the source: %w", err)
		}
		rel, err := filepath.Rel(folders[module], path)
		if err != nil {
			return nil, nil, fmt.Errorf("hash the source: %w", err)
		}
		sources = append(sources, artifact.Source{Module: module, Path: filepath.ToSlash(rel), Sum: sum})
	}
	slices.SortFunc(sources, func(a, b artifact.Source) int {
		return cmp.Or(strings.Compare(a.Module, b.Module), strings.Compare(a.Path, b.Path))
	})
	return sources, folders, nil
}

func isWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return dir != "" && err == nil && filepath.IsLocal(rel)
}
