package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// CacheLimit is how many bytes of workers a cache keeps. What was used last stays.
	CacheLimit = 2 << 30
	// inUse is how long a worker stays that was used, whatever the limit says: sessions start sandboxes from it.
	inUse = 24 * time.Hour
)

// A Cache keeps built workers, by what they were built from. Several processes may use one at the same time. Its layout:
//
//	workers/KEY             the worker whose manifest has the key
//	last/FOLDER/OS-ARCH     a Last, for the main package of a folder, by a hash of its path
type Cache struct {
	dir   string
	limit int64
}

// DefaultCache is the one of the current user: the folder sbx in the user's cache folder, or what the environment variable
// SBX_CACHE names.
func DefaultCache() (*Cache, error) {
	dir := os.Getenv("SBX_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a folder for built workers: %w; set SBX_CACHE to one", err)
		}
		dir = filepath.Join(user, "sbx")
	} else if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("SBX_CACHE is %q, which is no absolute path", dir)
	} else if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("SBX_CACHE is %q, which is no folder", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("SBX_CACHE can't be used: %w", err)
	}
	return NewCache(dir, CacheLimit), nil
}

// NewCache returns the cache in a folder, which need not exist, with a limit in bytes.
func NewCache(dir string, limit int64) *Cache { return &Cache{dir: dir, limit: limit} }

// Dir is the cache's folder.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) path(key string) string { return filepath.Join(c.dir, "workers", key) }

// Get returns the path of the worker with a key, and marks it as used. The error is fs.ErrNotExist if there is none. The file
// may be removed when other workers are put: open it at once, and Get it again if it is gone.
func (c *Cache) Get(key string) (string, error) {
	if !isKey(key) {
		return "", fmt.Errorf("%q is no key of a worker", key)
	}
	path := c.path(key)
	now := time.Now()
	if err := os.Chtimes(path, now, now); errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path, nil
}

func isKey(key string) bool {
	raw, err := hex.DecodeString(key)
	return err == nil && len(raw) == 16
}

// Put moves nothing and copies all: what is read from contents becomes the worker with the key, whole or not at all. It returns
// the worker's path. Then the workers that were not used for longest are removed, until what is left is within the limit; those that were
// used within a day stay.
func (c *Cache) Put(key string, contents io.Reader) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep a worker in %s: %w; SBX_CACHE can name another folder", c.dir, err)
		}
	}()
	path := c.path(key)
	if err := ReplaceFile(path, 0o755, contents); err != nil {
		return "", err
	}
	return path, c.trim(path)
}

// folder is what is kept for the main package in dir, an absolute path.
func (c *Cache) folder(dir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(dir)))
	return filepath.Join(c.dir, "last", hex.EncodeToString(sum[:16]))
}

func (c *Cache) place(dir, platform string) string {
	return filepath.Join(c.folder(dir), strings.ReplaceAll(platform, "/", "-"))
}

// Platforms are those for which there was a worker of the main package in dir, an absolute path.
func (c *Cache) Platforms(dir string) []string {
	entries, _ := os.ReadDir(c.folder(dir))
	var platforms []string
	for _, entry := range entries {
		if goos, goarch, ok := strings.Cut(entry.Name(), "-"); ok && goos != "" {
			platforms = append(platforms, goos+"/"+goarch)
		}
	}
	return platforms
}

// A Last is the worker that was built last for a main package and a platform.
type Last struct {
	// Key is that of its manifest.
	Key string `json:"key"`
	// Folders are where the modules of its sources are on this machine, by their paths; the main module's by "".
	Folders map[string]string `json:"folders"`
}

// SetLast says which worker is the one of the main package in dir, an absolute path.
func (c *Cache) SetLast(dir, platform string, last Last) error {
	text, err := json.Marshal(last)
	if err == nil {
		err = ReplaceFile(c.place(dir, platform), 0o644, bytes.NewReader(text))
	}
	if err != nil {
		return fmt.Errorf("keep which worker is the last one: %w; SBX_CACHE can name another folder than %s", err, c.dir)
	}
	return nil
}

// Last returns the worker that was built last for the main package in dir, an absolute path, and its path. The error is
// fs.ErrNotExist if there is none, or if what is kept about it can't be read.
func (c *Cache) Last(dir, platform string) (last Last, path string, err error) {
	text, err := os.ReadFile(c.place(dir, platform))
	if err != nil {
		return Last{}, "", err
	}
	if err := json.Unmarshal(text, &last); err != nil {
		return Last{}, "", fmt.Errorf("%w: %s: %w", fs.ErrNotExist, c.place(dir, platform), err)
	}
	path, err = c.Get(last.Key)
	return last, path, err
}

// trim removes what was not used for longest, but never keep.
func (c *Cache) trim(keep string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, "workers"))
	if err != nil {
		return err
	}
	var infos []fs.FileInfo
	total := int64(0)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // else somebody else removed it
			infos = append(infos, info)
			total += info.Size()
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range infos {
		path := filepath.Join(c.dir, "workers", info.Name())
		if total <= c.limit {
			break
		}
		if path == keep || time.Since(info.ModTime()) < inUse {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= info.Size()
	}
	return nil
}

// CopyExecutable makes target a copy of the executable source, as ReplaceFile does.
func CopyExecutable(target, source string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	if err := ReplaceFile(target, 0o755, in); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	return nil
}

// MayReplace reports whether an executable may be written to path: there is nothing, a folder, an empty file, or one that begins as
// executables of some system do.
func MayReplace(path string) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	if info.IsDir() || info.Mode().IsRegular() && info.Size() == 0 {
		return true, nil
	}
	begins := make([]byte, 4)
	if !info.Mode().IsRegular() {
		return false, nil
	}
	if _, err := io.ReadFull(file, begins); err != nil {
		return false, nil // shorter than any executable
	}
	for _, magic := range []string{"\x7fELF", "MZ", "\xcf\xfa\xed\xfe", "\xce\xfa\xed\xfe", "\x00asm"} { // ELF, PE, Mach-O twice, WebAssembly
		if bytes.HasPrefix(begins, []byte(magic)) {
			return true, nil
		}
	}
	return false, nil
}

// ReplaceFile gives a file new contents at once: whoever opens it finds the old ones or the new ones, whole. It makes the folder if need
// be, but takes the place of nothing that is no file.
func ReplaceFile(path string, mode fs.FileMode, contents io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s is not a regular file", path)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	_, err = io.Copy(temp, contents)
	if err = errors.Join(err, temp.Chmod(mode), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
