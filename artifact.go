package sbx

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/artifact"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/worker"
)

// BuiltWorker has sandboxes run the worker that sbxgen built for the program (go tool sbxgen worker), also where the program
// itself could run there, which is what they do otherwise. A built worker is static, and has no code that only main reaches.
//
// The worker is the one that is part of the program, if go tool sbxgen build made it, or else the one in the cache of the
// user. That one must be of the source as it is: Open fails with [ErrStaleWorker] if a file has changed since.
func BuiltWorker() OpenOption { return openOption(func(c *openConfig) { c.builtWorker = true }) }

// WorkerFile has sandboxes run the worker in a file that sbxgen built (go tool sbxgen worker -o file). It must be as sbxgen
// wrote it, for the sandboxes' platform, and built with the version of sbx that the program has; and on a machine where sbxgen has built a worker of the program's
// source, of the source as it is: Open fails with [ErrStaleWorker] otherwise. Whether its functions are those of the program is
// checked by the first call of each.
func WorkerFile(path string) OpenOption {
	return openOption(func(c *openConfig) {
		if path == "" {
			c.errs = append(c.errs, &OptionError{Option: "WorkerFile", Reason: "is empty; name a file that go tool sbxgen worker -o wrote"})
		}
		c.workerFile = path
	})
}

// AutoBuild has Open build the worker, with go tool sbxgen worker, where one is needed and there is none, or a stale one. It
// needs the Go toolchain and the program's source where they were when the program was built, so it is for development.
func AutoBuild() OpenOption { return openOption(func(c *openConfig) { c.autoBuild = true }) }

// workers finds the executables for the sandboxes of a session.
type workers struct {
	openConfig
	temporary []string // files to remove when the session closes

	mu    sync.Mutex
	found map[string]fs.FileInfo // that are not the program itself, as they were then
}

// find is driver.SessionSpec.Worker.
func (w *workers) find(ctx context.Context, platform driver.Platform) (string, error) {
	path, err := w.locate(ctx, platform)
	if own, _ := worker.Executable(); err == nil && path != own {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.found == nil {
			w.found = map[string]fs.FileInfo{}
		}
		if _, ok := w.found[path]; !ok {
			w.found[path] = info
		}
	}
	return path, err
}

// hash is one of the contents of the workers that were found by now; empty if all are the program itself. It is an error if one has changed
// since it was found: sandboxes may run either.
func (w *workers) hash() (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sums []string
	for path, then := range w.found {
		sum, err := artifact.HashFile(path)
		if err != nil {
			return "", err
		}
		now, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if !os.SameFile(then, now) || !then.ModTime().Equal(now.ModTime()) || then.Size() != now.Size() {
			return "", fmt.Errorf("%s has changed since the session was opened; open another one", path)
		}
		sums = append(sums, "+"+sum)
	}
	slices.Sort(sums)
	return strings.Join(sums, ""), nil
}

func (w *workers) locate(ctx context.Context, platform driver.Platform) (string, error) {
	if w.workerFile != "" {
		return w.workerFile, checkWorkerFile(w.workerFile, platform)
	}
	dynamic := false
	if host := driver.Host(); platform.OS == host.OS && platform.Arch == host.Arch && !w.builtWorker {
		path, err := worker.Executable()
		if err == nil && platform.Alone {
			dynamic, err = isDynamic(path)
		}
		if err != nil {
			return "", fmt.Errorf("find this program's own file, which runs in sandboxes: %w", err)
		}
		if !dynamic {
			return path, nil
		}
	}
	if embedded, ok := worker.EmbeddedFor(platform.String()); ok {
		return w.unpack(embedded)
	}
	path, err := w.cached(ctx, platform)
	if err != nil && dynamic {
		err = fmt.Errorf("this program is linked with libraries of this machine, which are not where its sandboxes run; "+
			"build or run it with CGO_ENABLED=0, or have its worker built: %w", err)
	}
	return path, err
}

// isDynamic reports whether an executable of Linux is started by a loader, which needs files: that of the machine, and libraries.
func isDynamic(path string) (bool, error) {
	file, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

// checkWorkerFile refuses a worker that can't serve this program.
func checkWorkerFile(path string, platform driver.Platform) error {
	m, err := artifact.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: WorkerFile: %w; go tool sbxgen worker -o FILE makes one", ErrNoWorker, err)
	}
	if m.Platform != platform.String() {
		return fmt.Errorf("%w: %s is for %s, and the sandboxes are %s; make one with go tool sbxgen worker -platform %s -o FILE",
			ErrNoWorker, path, m.Platform, platform, platform)
	}
	if ours := wire.ModuleVersion(); m.SBX != ours {
		return fmt.Errorf("%w: %s was built with sbx %s, and this program with %s; build both with the same version", ErrStaleWorker, path, m.SBX, ours)
	}
	// Where the source is, and what belongs to it, is known if a worker of it was built on this machine.
	source := worker.Source()
	if !filepath.IsAbs(source) || strings.HasSuffix(source, "_test.go") {
		return nil
	}
	cache, err := artifact.DefaultCache()
	if err != nil {
		return nil //nolint:nilerr // as without source
	}
	last, _, err := cache.Last(filepath.Dir(source), platform.String())
	if err != nil {
		return nil //nolint:nilerr // as without source
	}
	return stale(m, filepath.Dir(source), last.Folders, fmt.Sprintf("make it anew with go tool sbxgen worker -platform %s -o %s", platform, path))
}

// stale is an error if the source in dir is not what a worker was built of; nil if it is not there, so that nobody can tell.
func stale(m *artifact.Manifest, dir string, folders map[string]string, remedy string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	reason, err := m.Stale(folders)
	switch {
	case err != nil:
		return fmt.Errorf("%w, as far as can be told: %w; %s", ErrStaleWorker, err, remedy)
	case reason != "":
		return fmt.Errorf("%w: %s; %s", ErrStaleWorker, reason, remedy)
	}
	return nil
}

// cached is the worker that sbxgen built last for this program's main package.
func (w *workers) cached(ctx context.Context, platform driver.Platform) (string, error) {
	source := worker.Source()
	switch {
	case source == "":
		return "", fmt.Errorf("%w for %s: the program has no generated code; run go generate", ErrNoWorker, platform)
	case strings.HasSuffix(source, "_test.go"):
		return "", fmt.Errorf("%w for %s: tests run in sandboxes as they are, built with CGO_ENABLED=0 where those have other files, and for %s only", ErrNoWorker, platform, driver.Host())
	case !filepath.IsAbs(source):
		return "", fmt.Errorf("%w for %s: the program was built with -trimpath, so it can't tell which one is its own; "+
			"build it with go tool sbxgen build -platform %s, or name a worker with sbx.WorkerFile", ErrNoWorker, platform, platform)
	}
	dir := filepath.Dir(source)
	cache, err := artifact.DefaultCache()
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrNoWorker, platform, err)
	}
	found, err := lookUp(cache, dir, platform)
	if err != nil && w.autoBuild && (errors.Is(err, ErrNoWorker) || errors.Is(err, ErrStaleWorker)) {
		if err := buildWorker(ctx, dir, platform); err != nil {
			return "", err
		}
		return lookUp(cache, dir, platform)
	}
	return found, err
}

// lookUp returns the worker of the main package in dir, unless there is none or its source has changed.
func lookUp(cache *artifact.Cache, dir string, platform driver.Platform) (string, error) {
	remedy := fmt.Sprintf("run go tool sbxgen worker -platform %s in %s, or open the session with sbx.AutoBuild()", platform, dir)
	last, found, err := cache.Last(dir, platform.String())
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w for %s: %s", ErrNoWorker, platform, remedy)
	}
	if err != nil {
		return "", fmt.Errorf("look for a worker for %s: %w", platform, err)
	}
	m, err := artifact.ReadFile(found)
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w; %s", ErrNoWorker, platform, err, remedy)
	}
	if ours := wire.ModuleVersion(); m.SBX != ours {
		return "", fmt.Errorf("%w: it was built with sbx %s, and this program with %s; %s", ErrStaleWorker, m.SBX, ours, remedy)
	}
	return found, stale(m, dir, last.Folders, remedy)
}

func buildWorker(ctx context.Context, dir string, platform driver.Platform) error {
	cmd := exec.CommandContext(ctx, "go", "tool", "sbxgen", "worker", "-platform", platform.String(), ".")
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTime
	out, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		return fmt.Errorf("%w: build one for %s: %w\n%s", ErrNoWorker, platform, err, bytes.TrimSpace(out))
	}
	return nil
}

// maxWorker bounds what an embedded worker unpacks to, in bytes.
const maxWorker = 4 << 30

// unpack writes a worker that is part of the program into the user's cache, unless it is there; where there is no such cache, into a file of
// the session.
func (w *workers) unpack(embedded worker.Embedded) (string, error) {
	sum := embedded.Sum
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("%w for %s: the one in this program has the hash %q", ErrNoWorker, embedded.Platform, sum)
	}
	key := sum[:32]
	cache, err := artifact.DefaultCache()
	if err == nil {
		if found, err := cache.Get(key); err == nil {
			if has, err := artifact.HashFile(found); err == nil && has == sum {
				return found, nil
			}
		}
	}
	contents, err := unzip(embedded)
	if err != nil {
		return "", fmt.Errorf("unpack the worker for %s that is in this program: %w", embedded.Platform, err)
	}
	if cache != nil {
		if found, err := cache.Put(key, bytes.NewReader(contents)); err == nil {
			return found, nil
		}
	}
	found, err := w.writeTemporary(contents)
	if err != nil {
		return "", fmt.Errorf("unpack the worker for %s that is in this program: %w", embedded.Platform, err)
	}
	return found, nil
}

func unzip(embedded worker.Embedded) ([]byte, error) {
	r, err := gzip.NewReader(strings.NewReader(embedded.Gzip))
	if err != nil {
		return nil, err
	}
	contents, err := io.ReadAll(io.LimitReader(r, maxWorker))
	if err != nil {
		return nil, err
	}
	if has := sha256.Sum256(contents); hex.EncodeToString(has[:]) != embedded.Sum {
		return nil, errors.New("it is not what sbxgen put there")
	}
	return contents, nil
}

func (w *workers) writeTemporary(contents []byte) (string, error) {
	file, err := os.CreateTemp("", "sbx-worker-*")
	if err != nil {
		return "", err
	}
	w.temporary = append(w.temporary, file.Name())
	_, err = file.Write(contents)
	return file.Name(), errors.Join(err, file.Chmod(0o700), file.Close())
}

// Close removes what was unpacked for this session.
func (w *workers) Close() error {
	var errs []error
	for _, name := range w.temporary {
		if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
