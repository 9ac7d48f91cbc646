package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("JOURNAL_TEST_APPEND"); path != "" {
		appendForEver(path)
	}
	goleak.VerifyTestMain(m)
}

func key(n int) Key { return KeyOf([]byte("f"), []byte(fmt.Sprint(n))) }

const text = "what an error prints"

func record(n int) Record {
	return Record{Key: key(n), Group: 1, Index: n, Failed: n%7 == 0, Text: text[:n%len(text)], Time: time.UnixMilli(int64(n)), Data: bytes.Repeat([]byte{byte(n)}, n%300)}
}

func open(t testing.TB, path string) *Journal {
	j, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, j.Close()) })
	return j
}

// write appends records, many at a time.
func write(t testing.TB, path string, ns ...int) {
	j := open(t, path)
	var wg sync.WaitGroup
	for _, n := range ns {
		wg.Go(func() { assert.NoError(t, j.Append(record(n))) })
	}
	wg.Wait()
	require.NoError(t, j.Close())
}

func take(t testing.TB, j *Journal, n int) (Record, bool) {
	r, found, err := j.Take(key(n))
	require.NoError(t, err)
	return r, found
}

func TestRecordsAreThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	var first, second []int
	for n := range 1000 {
		if n%2 == 0 {
			first = append(first, n)
		} else {
			second = append(second, n)
		}
	}
	write(t, path, first...)
	write(t, path, second...)
	j := open(t, path)
	for n := range 1000 {
		r, found := take(t, j, n)
		require.True(t, found, n)
		assert.Equal(t, record(n), r)
		_, found = take(t, j, n)
		assert.False(t, found, "each record is given once")
	}
	_, found := take(t, j, 1000)
	assert.False(t, found)
}

func TestEveryOccurrenceHasARecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	write(t, path, 1, 2, 1, 1)
	j := open(t, path)
	for range 3 {
		_, found := take(t, j, 1)
		assert.True(t, found)
	}
	_, found := take(t, j, 1)
	assert.False(t, found)
	require.NoError(t, j.Append(record(1)))
	_, found = take(t, j, 1)
	assert.False(t, found, "what this run wrote is not for this run")
}

func TestPartsOfKeysAreApart(t *testing.T) {
	assert.NotEqual(t, KeyOf([]byte("ab"), []byte("c")), KeyOf([]byte("a"), []byte("bc")))
	assert.Equal(t, KeyOf([]byte("ab"), nil), KeyOf([]byte("ab"), []byte{}))
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	_, err := Open(path)
	assert.ErrorIs(t, err, ErrInUse)
	_, err = Read(path)
	assert.ErrorIs(t, err, ErrInUse)
	_, _, err = Compact(path, nil)
	assert.ErrorIs(t, err, ErrInUse)
	require.NoError(t, j.Close())
	open(t, path)
}

func TestAfterClose(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	require.NoError(t, j.Close())
	require.NoError(t, j.Close())
	assert.ErrorIs(t, j.Append(record(1)), ErrClosed)
	_, _, err := j.Take(key(1))
	assert.ErrorIs(t, err, ErrClosed)
}

func TestForeignFilesAreRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	database := filepath.Join(dir, "database")
	db, err := bbolt.Open(database, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }))
	require.NoError(t, db.Close())
	for name, contents := range map[string]string{"text": "hello\n", "page": strings.Repeat("package main\n", 500), "long": string(bytes.Repeat([]byte("0123456789abcdef"), 10_000))} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o600))
	}
	for _, name := range []string{"text", "page", "long", "database"} {
		path := filepath.Join(dir, name)
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		_, err = Open(path)
		assert.ErrorIs(t, err, ErrForeign, name)
		_, err = Read(path)
		assert.ErrorIs(t, err, ErrForeign, name)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(before, after), name)
	}
	_, err = Open(dir)
	assert.ErrorIs(t, err, ErrForeign)
	_, err = Read(filepath.Join(dir, "none"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NoFileExists(t, filepath.Join(dir, "none"))
	_, err = Open(filepath.Join(dir, "no", "folder"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, filepath.Join(dir, "no", "folder"))
}

// Whatever is done to a file, nothing in it is taken for something else, and nothing panics.
func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	const n = 3000
	var ns []int
	for i := range n {
		ns = append(ns, i)
	}
	write(t, whole, ns...)
	require.NoError(t, open(t, whole).Close()) // it is indexed now
	contents, err := os.ReadFile(whole)
	require.NoError(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for i := range 150 {
		damaged := bytes.Clone(contents)
		what := "cut"
		switch i % 3 {
		case 0:
			damaged = damaged[:random.IntN(len(damaged))]
		case 1:
			what = "one byte"
			damaged[random.IntN(len(damaged))] ^= byte(1 + random.IntN(255))
		case 2:
			what = "a page of zeros"
			at := random.IntN(len(damaged)/4096) * 4096
			clear(damaged[at : at+4096])
		}
		path := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		if err := readAll(t, path, n); err != nil {
			refused++
			var e *Error
			require.ErrorAs(t, err, &e, what)
			if len(damaged) >= 4096 && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged) {
				assert.Fail(t, "unclear", "%s: %v", what, err)
			}
		}
	}
	assert.Greater(t, refused, 50)
}

// readAll checks that what a journal still has is right.
func readAll(t *testing.T, path string, n int) error {
	j, err := Open(path)
	if err != nil {
		return err
	}
	defer j.Close()
	for i := range n {
		r, found, err := j.Take(key(i))
		if err != nil {
			return err
		}
		if found {
			require.Equal(t, record(i), r)
		}
	}
	return nil
}

// appendForEver tells each record that is on the disk, until it is killed.
func appendForEver(path string) {
	j, err := Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	for n := 0; ; n++ {
		if _, found, err := j.Take(key(n)); err != nil || !found {
			next = n
			break
		}
	}
	for range 8 {
		wg.Go(func() {
			for {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				if err := j.Append(record(n)); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				fmt.Println(n) // a single write
			}
		})
	}
	wg.Wait()
}

func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	var told []int
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "JOURNAL_TEST_APPEND="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			var n int
			require.NoError(t, json.Unmarshal(lines.Bytes(), &n), lines.Text())
			told = append(told, n)
			if i == 100*round+37 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // it was killed
	}
	j := open(t, path)
	for _, n := range told {
		r, found := take(t, j, n)
		require.True(t, found, n)
		assert.Equal(t, record(n), r)
	}
}

func TestViewAndCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	a, b := Group{Function: "f", Types: "t", Version: "1"}, Group{Function: "f", Types: "t", Version: "2"}
	first, err := j.Group(a)
	require.NoError(t, err)
	second, err := j.Group(b)
	require.NoError(t, err)
	again, err := j.Group(a)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.NotEqual(t, first, second)
	const n = 5000
	var wg sync.WaitGroup
	for i := range n {
		r := record(i)
		r.Group = first
		if i%2 == 1 {
			r.Group = second
		}
		wg.Go(func() { assert.NoError(t, j.Append(r)) })
	}
	wg.Wait()
	require.NoError(t, j.Close())

	count := func() (records int, groups map[string]int) {
		v, err := Read(path)
		require.NoError(t, err)
		defer v.Close()
		names, err := v.Groups()
		require.NoError(t, err)
		groups = map[string]int{}
		for r, err := range v.Records() {
			require.NoError(t, err)
			records++
			groups[names[r.Group].Version]++
		}
		return records, groups
	}
	records, groups := count()
	assert.Equal(t, n, records)
	assert.Equal(t, map[string]int{"1": n / 2, "2": n / 2}, groups)

	before, err := os.Stat(path)
	require.NoError(t, err)
	kept, dropped, err := Compact(path, func(g Group, r Record) bool { return g.Version == b.Version && !r.Failed })
	require.NoError(t, err)
	assert.Equal(t, n, kept+dropped)
	records, groups = count()
	assert.Equal(t, kept, records)
	assert.Equal(t, map[string]int{"2": kept}, groups)
	after, err := os.Stat(path)
	require.NoError(t, err)
	assert.Less(t, after.Size(), before.Size())
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	require.NoError(t, err)
	assert.Empty(t, left)

	j = open(t, path)
	for i := range n {
		_, found := take(t, j, i)
		assert.Equal(t, i%2 == 1 && i%7 != 0, found, i)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, at := range []int{1, 16, 512} {
		b.Run(fmt.Sprint(at), func(b *testing.B) {
			j := open(b, filepath.Join(b.TempDir(), "j"))
			slots := make(chan struct{}, at)
			var wg sync.WaitGroup
			for n := 0; b.Loop(); n++ {
				slots <- struct{}{}
				wg.Go(func() {
					if err := j.Append(record(n)); err != nil {
						panic(err)
					}
					<-slots
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkOpenAndTake(b *testing.B) {
	path := filepath.Join(b.TempDir(), "j")
	const n = 200_000
	j := open(b, path)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4096)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			if err := j.Append(record(i)); err != nil {
				panic(err)
			}
			<-slots
		})
	}
	wg.Wait()
	require.NoError(b, j.Close())
	contents, err := os.ReadFile(path)
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, os.WriteFile(path, contents, 0o600))
		j := open(b, path)
		for i := range n {
			if _, found := take(b, j, i); !found {
				b.Fatal(i)
			}
		}
		require.NoError(b, j.Close())
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
}

// Somebody cuts the file while it is open: errors, and nobody waits for ever.
func TestDamagedWhileOpen(t *testing.T) {
	for _, first := range []string{"take", "append", "close"} {
		path := filepath.Join(t.TempDir(), "j")
		var ns []int
		for i := range 2000 {
			ns = append(ns, i)
		}
		write(t, path, ns...)
		j, err := Open(path)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, 0))
		damaged := 0
		note := func(err error) {
			if errors.Is(err, ErrDamaged) {
				damaged++
			}
		}
		if first == "take" {
			_, _, err := j.Take(key(1))
			note(err)
		}
		if first != "close" {
			for n := range 10 {
				note(j.Append(record(n)))
				_, _, err := j.Take(key(n))
				note(err)
			}
			assert.Positive(t, damaged, first)
		}
		note(j.Close())
		open(t, path) // the lock is given up; an empty file is as good as none
	}
}

func TestManyOccurrences(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path)
	var wg sync.WaitGroup
	const n = 50_000
	slots := make(chan struct{}, 4096)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			assert.NoError(t, j.Append(record(i%2)))
			<-slots
		})
	}
	wg.Wait()
	require.NoError(t, j.Close())
	j = open(t, path)
	for range n / 2 {
		for k := range 2 {
			r, found := take(t, j, k)
			require.True(t, found)
			require.Equal(t, record(k), r)
		}
	}
	_, found := take(t, j, 0)
	assert.False(t, found)
}

// A file that was replaced before it was locked is not written to: nobody would see it.
func TestReplacedFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	write(t, path, 1)
	j := &Journal{path: path}
	require.NoError(t, j.guard("open", func() error { return j.open(false) }))
	require.NoError(t, j.current())
	require.NoError(t, os.Rename(path, path+".old"))
	write(t, path, 2)
	require.ErrorIs(t, j.current(), ErrInUse)
	require.NoError(t, j.shut())
}

// What is written to a file that somebody removed could never be read again.
func TestRemovedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files that are open can't be removed")
	}
	for name, remove := range map[string]func(path string) error{
		"removed":  os.Remove,
		"replaced": func(path string) error { return os.Rename(path+".other", path) },
	} {
		path := filepath.Join(t.TempDir(), "j")
		require.NoError(t, os.WriteFile(path+".other", nil, 0o600))
		j := open(t, path)
		require.NoError(t, j.Append(record(1)), name)
		require.NoError(t, os.Rename(path, path+".moved"), name) // it is still there, under another name
		require.NoError(t, j.Append(record(2)), name)
		require.NoError(t, os.Rename(path+".moved", path), name)
		require.NoError(t, remove(path), name)
		require.ErrorIs(t, j.Append(record(3)), ErrRemoved, name)
		require.NoError(t, j.Close(), name)
	}
}
