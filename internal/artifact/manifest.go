// Package artifact is what is known of a worker that sbxgen built: the manifest that the file carries, whether the source
// has changed since, how two manifests differ, and the cache that keeps workers. Its audience is package codegen, which
// builds workers, and package sbx, which looks for them. It imports the standard library only.
package artifact

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// A Manifest describes a built worker. The same source and the same tools make the same manifest, wherever they are.
type Manifest struct {
	// SBX is the version of sbx that the worker was built with, as wire.ModuleVersion has it.
	SBX string `json:"sbx"`
	// Go is the version of the Go toolchain: "go1.27.0".
	Go string `json:"go"`
	// Platform is what the worker runs on: "linux/amd64".
	Platform string `json:"platform"`
	// Package is the import path of the main package.
	Package string `json:"package"`
	// Settings are what else decides the outcome, such as "CGO_ENABLED=0" and "-tags=a,b".
	Settings []string `json:"settings"`
	// Functions are the functions that the worker serves, sorted by name.
	Functions []Function `json:"functions"`
	// Types are those that the functions' signatures reach, by their full names.
	Types map[string]Type `json:"types"`
	// Sources are the files that went in, but for those of the standard library and of downloaded modules, which go.sum
	// stands for. Sorted by module and path.
	Sources []Source `json:"sources"`
}

// A Function is one that a worker serves.
type Function struct {
	Name string `json:"name"` // "example.com/m.Train"
	// Signature is the function's type as text: "func(context.Context, Job) (Report, error)".
	Signature string `json:"signature"`
	// Types are the names, in Manifest.Types, of all that the signature reaches.
	Types []string `json:"types,omitempty"`
}

// A Type is a defined type that crosses.
type Type struct {
	// Text is the short name, as Go code has it: "Job".
	Text string `json:"text"`
	// Underlying is what the type is made of, if it is no struct.
	Underlying string `json:"underlying,omitempty"`
	// Fields are a struct's fields that are sent, in order.
	Fields []Field `json:"fields,omitempty"`
}

// A Field is a field of a struct.
type Field struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// A Source is a file with its hash.
type Source struct {
	// Module is the path of the module that the file belongs to; empty for the main module. Others have folders on this machine
	// by a replacement in go.mod, or by a workspace.
	Module string `json:"module,omitempty"`
	// Path is relative to the module's folder, with slashes.
	Path string `json:"path"`
	// Sum is the SHA-256 of the contents, in hexadecimal digits.
	Sum string `json:"sum"`
}

// String is the file's path, with its module if that is another than the main one.
func (s Source) String() string {
	if s.Module == "" {
		return s.Path
	}
	return s.Path + " of " + s.Module
}

// Key names the worker that a manifest describes: two manifests with the same key are of the same worker.
func (m *Manifest) Key() string {
	sum := sha256.Sum256(m.json())
	return hex.EncodeToString(sum[:16])
}

func (m *Manifest) json() []byte {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings can be encoded
	}
	return text
}

// The marks around a manifest in an executable. The code that looks for them is in programs, and not in workers, which
// have the text as one constant; still, the marks are put together when the program runs, so that they are nowhere else.
var (
	markBegin = []byte(strings.Join([]string{"sbx", "manifest", "v1", "<<"}, ":"))
	markEnd   = []byte(strings.Join([]string{">>", "sbx", "manifest"}, ":"))
)

// maxFile bounds a worker, in bytes.
const maxFile = 4 << 30

// maxText bounds an encoded manifest, and what it decompresses to.
const maxText = 64 << 20

// Text is the manifest as it stands in an executable: printable, on one line, without quotes.
func (m *Manifest) Text() string {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed) // no name and no time, so the same bytes for the same manifest
	_, _ = w.Write(m.json())
	_ = w.Close()
	return string(markBegin) + base64.StdEncoding.EncodeToString(packed.Bytes()) + string(markEnd)
}

// ErrNoManifest says that a file is no worker that sbxgen built.
var ErrNoManifest = errors.New("no worker that sbxgen built: it carries no manifest")

// Parse returns the manifest that stands somewhere in the contents of an executable.
func Parse(contents []byte) (*Manifest, error) {
	_, rest, ok := bytes.Cut(contents, markBegin)
	if !ok {
		return nil, ErrNoManifest
	}
	packed, _, ok := bytes.Cut(rest, markEnd)
	if !ok {
		return nil, ErrNoManifest
	}
	m, err := unpack(packed)
	if err != nil {
		return nil, fmt.Errorf("its manifest can't be read: %w", err)
	}
	return m, nil
}

func unpack(packed []byte) (*Manifest, error) {
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(packed)))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("it has more than %d bytes", maxText)
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ReadFile returns the manifest of a worker's file. The error is ErrNoManifest if it is none, and ErrDamaged if it was sealed with other
// contents.
func ReadFile(path string) (*Manifest, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w", path, ErrNoManifest)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes, which is more than a worker can have: %w", path, info.Size(), ErrNoManifest)
	}
	contents, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := Parse(contents)
	if err == nil {
		err = checkSeal(contents)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// ImageFolder is where an image has its workers, each under the hash of its contents.
const ImageFolder = "/.sbx-worker"

// HashFile returns the SHA-256 of a file's contents, in hexadecimal digits.
func HashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
