package artifact

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sample() *Manifest {
	return &Manifest{
		SBX: "v1.0.0", Go: "go1.27.0", Platform: "linux/amd64", Package: "example.com/m", Settings: []string{"CGO_ENABLED=0"},
		Functions: []Function{{Name: "example.com/m.Train", Signature: "func(context.Context, Job) (Report, error)", Types: []string{"example.com/m.Job", "example.com/m.Report"}}},
		Types: map[string]Type{
			"example.com/m.Job":    {Text: "Job", Fields: []Field{{"Name", "string"}, {"Epochs", "int"}}},
			"example.com/m.Report": {Text: "Report", Underlying: "float64"},
		},
		Sources: []Source{{Path: "go.mod", Sum: "1"}, {Path: "train.go", Sum: "2"}},
	}
}

func TestManifestsAreFoundInExecutables(t *testing.T) {
	m := sample()
	contents := "\x7fELF…" + m.Text() + "…the rest"
	got, err := Parse([]byte(contents))
	require.NoError(t, err)
	assert.Equal(t, m, got)
	assert.Equal(t, m.Key(), got.Key())

	path := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(path, []byte(contents), 0o600))
	require.NoError(t, Seal(path))
	got, err = ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, m, got)
}

func TestDamageIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker")
	begin, end := "\x7fELF…", "…the rest"
	require.NoError(t, os.WriteFile(path, []byte(begin+sample().Text()+end), 0o600))
	_, err := ReadFile(path)
	require.ErrorIs(t, err, ErrDamaged, "never sealed")
	require.NoError(t, Seal(path))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	damaged := map[string][]byte{
		"cut off": whole[:len(whole)-1],
		"longer":  append(bytes.Clone(whole), 0),
	}
	for name, at := range map[string]int{"first byte": 0, "after the manifest": len(whole) - 76, "mark": len(whole) - 70, "hash": len(whole) - 1} {
		damaged[name] = bytes.Clone(whole)
		damaged[name][at] ^= 1
	}
	for name, contents := range damaged {
		require.NoError(t, os.WriteFile(path, contents, 0o600))
		_, err := ReadFile(path)
		assert.ErrorIs(t, err, ErrDamaged, name)
	}
}

func TestWhatCarriesNoManifest(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	_, err = ReadFile(self) // the code that looks for the marks doesn't have them
	assert.ErrorIs(t, err, ErrNoManifest)

	_, err = ReadFile(t.TempDir()) // nor is anything read that has no end
	assert.ErrorIs(t, err, ErrNoManifest)

	text := sample().Text()
	_, err = Parse([]byte(text[:len(text)-1]))
	assert.ErrorIs(t, err, ErrNoManifest)
	_, err = Parse([]byte(strings.Replace(text, "<<H4", "<<H5", 1)))
	assert.ErrorContains(t, err, "its manifest can't be read")

	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, err = w.Write(make([]byte, maxText+1))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = Parse([]byte(string(markBegin) + base64.StdEncoding.EncodeToString(bomb.Bytes()) + string(markEnd)))
	assert.ErrorContains(t, err, "more than")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample().Text()))
	f.Add([]byte(string(markBegin) + "H4sIAAAA" + string(markEnd)))
	f.Fuzz(func(t *testing.T, contents []byte) {
		if m, err := Parse(contents); err == nil {
			_ = m.Key()
			_ = Diff(m, sample())
		}
	})
}

func TestDiff(t *testing.T) {
	tests := map[string]struct {
		change func(m *Manifest)
		want   []string
	}{
		"nothing": {func(*Manifest) {}, nil},
		"field added": {
			func(m *Manifest) {
				m.Types["example.com/m.Job"] = Type{Text: "Job", Fields: []Field{{"Name", "string"}, {"Epochs", "int"}, {"Rate", "float64"}}}
			},
			[]string{"Train: field Job.Rate added"},
		},
		"fields removed, changed and moved": {
			func(m *Manifest) {
				m.Types["example.com/m.Job"] = Type{Text: "Job", Fields: []Field{{"Epochs", "int8"}}}
			},
			[]string{"Train: field Job.Epochs: int8, was int", "Train: field Job.Name removed"},
		},
		"order": {
			func(m *Manifest) {
				m.Types["example.com/m.Job"] = Type{Text: "Job", Fields: []Field{{"Epochs", "int"}, {"Name", "string"}}}
			},
			[]string{"Train: fields of Job in another order"},
		},
		"another kind": {
			func(m *Manifest) { m.Types["example.com/m.Report"] = Type{Text: "Report"} },
			[]string{"Train: Report is a struct, was float64"},
		},
		"signature": {
			func(m *Manifest) { m.Functions[0].Signature = "func(context.Context) error" },
			[]string{"Train: func(context.Context) error, was func(context.Context, Job) (Report, error)"},
		},
		"functions": {
			func(m *Manifest) { m.Functions[0].Name = "example.com/m/sub.Gen[example.com/m.T]" },
			[]string{"Train: removed", "Gen[example.com/m.T]: added"},
		},
		"the rest": {
			func(m *Manifest) {
				m.SBX, m.Go, m.Settings = "v1.1.0", "go1.28", nil
				m.Sources = []Source{{Path: "go.mod", Sum: "3"}, {Path: "new.go", Sum: "2"}, {Module: "example.com/dep", Path: "x.go", Sum: "4"}}
			},
			[]string{
				"sbx: v1.1.0, was v1.0.0", "Go: go1.28, was go1.27.0", "settings: none, was CGO_ENABLED=0",
				"go.mod: changed", "new.go: added", "x.go of example.com/dep: added", "train.go: removed",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			now := sample()
			test.change(now)
			assert.Equal(t, test.want, Diff(sample(), now))
		})
	}
}

func TestStale(t *testing.T) {
	root, dep := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	m := &Manifest{}
	for _, s := range []Source{{Path: "go.mod"}, {Path: "job/job.go"}, {Path: "job/data.txt"}, {Module: "example.com/dep", Path: "dep.go"}} {
		dir := root
		if s.Module != "" {
			dir = dep
		}
		write(dir, s.Path, "package p")
		var err error
		s.Sum, err = HashFile(filepath.Join(dir, s.Path))
		require.NoError(t, err)
		m.Sources = append(m.Sources, s)
	}
	check := func(want string) {
		t.Helper()
		got, err := m.Stale(map[string]string{"": root, "example.com/dep": dep})
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	check("")
	write(root, "job/job_test.go", "package p")
	write(root, "job/sbx_gen.go", "package p")
	write(root, "job/zzz_sbx_gen.go", "package p")
	write(root, "job/_x.go", "package p")
	write(root, "job/more.txt", "")
	write(root, "other/other.go", "package p")
	check("")
	write(root, "job/new.go", "package p")
	check("job/new.go is new")
	require.NoError(t, os.Remove(filepath.Join(root, "job/new.go")))
	check("")
	write(dep, "dep.go", "package q")
	check("dep.go of example.com/dep has changed")
	require.NoError(t, os.Remove(filepath.Join(dep, "dep.go")))
	check("dep.go of example.com/dep is gone")
	_, err := m.Stale(map[string]string{"": root})
	assert.ErrorContains(t, err, "example.com/dep")
}

func TestCache(t *testing.T) {
	cache := NewCache(filepath.Join(t.TempDir(), "new"), 100)
	key := func(n int) string { return fmt.Sprintf("%032x", n) }
	_, err := cache.Get(key(1))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = cache.Get("../../etc/passwd")
	require.ErrorContains(t, err, "no key")
	_, _, err = cache.Last("/m", "linux/amd64")
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.Empty(t, cache.Platforms("/m"))

	for n := range 4 {
		path, err := cache.Put(key(n), strings.NewReader(strings.Repeat("x", 30)))
		require.NoError(t, err)
		old := time.Now().Add(time.Duration(n-100) * time.Hour)
		require.NoError(t, os.Chtimes(path, old, old))
	}
	_, err = cache.Get(key(0))
	require.ErrorIs(t, err, fs.ErrNotExist, "the fourth had no place beside it")
	path, err := cache.Get(key(1)) // used now, so the second goes next
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&0o100, "a worker can be run")
	_, err = cache.Put(key(4), strings.NewReader(strings.Repeat("x", 30)))
	require.NoError(t, err)
	_, err = cache.Get(key(2))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = cache.Get(key(1))
	require.NoError(t, err)

	require.NoError(t, cache.SetLast("/m", "linux/amd64", Last{Key: key(4), Folders: map[string]string{"": "/m"}}))
	last, path, err := cache.Last("/m/.", "linux/amd64")
	require.NoError(t, err)
	assert.Equal(t, Last{Key: key(4), Folders: map[string]string{"": "/m"}}, last)
	assert.FileExists(t, path)
	assert.Equal(t, []string{"linux/amd64"}, cache.Platforms("/m"))
	_, _, err = cache.Last("/other", "linux/amd64")
	require.ErrorIs(t, err, fs.ErrNotExist)

	// What a computer left that lost power counts as nothing.
	require.NoError(t, cache.SetLast("/broken", "linux/amd64", last))
	require.NoError(t, os.Truncate(cache.place("/broken", "linux/amd64"), 0))
	_, _, err = cache.Last("/broken", "linux/amd64")
	require.ErrorIs(t, err, fs.ErrNotExist)

	// One that is larger than the limit is kept, and so is what was used a while ago.
	path, err = cache.Put(key(5), strings.NewReader(strings.Repeat("x", 200)))
	require.NoError(t, err)
	assert.FileExists(t, path)
	_, old, err := cache.Last("/m", "linux/amd64")
	require.NoError(t, err)
	longAgo := time.Now().Add(-inUse - time.Hour)
	require.NoError(t, os.Chtimes(old, longAgo, longAgo))
	_, err = cache.Put(key(6), strings.NewReader("x"))
	require.NoError(t, err)
	_, _, err = cache.Last("/m", "linux/amd64")
	require.ErrorIs(t, err, fs.ErrNotExist, "the worker is gone")
}

func TestACacheThatCantBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := NewCache(filepath.Join(file, "sbx"), 100).Put(fmt.Sprintf("%032x", 1), strings.NewReader("x"))
	require.ErrorContains(t, err, "keep a worker in")

	t.Setenv("SBX_CACHE", "relative")
	_, err = DefaultCache()
	require.ErrorContains(t, err, "absolute")
	t.Setenv("SBX_CACHE", "/somewhere")
	cache, err := DefaultCache()
	require.NoError(t, err)
	assert.Equal(t, "/somewhere", cache.Dir())
}
