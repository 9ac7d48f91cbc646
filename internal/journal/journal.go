// Package journal keeps what came of a map's inputs in a file, so that a map which was interrupted goes on where it was. Its
// audience is package sbx, and the command that lists and compacts such files.
//
// The file is a bbolt database: its pages are copied on write and its two roots have checksums, so a process or a machine that
// dies leaves the last state that was committed, and its lock keeps a second program out. Records stand in the bucket "records" in the
// order in which they came, under growing numbers, so that writing is appending. What they are found by stands in the bucket
// "index": the key of the input and the number. Nobody looks for what the same run wrote, so records are indexed only when the file is
// opened again, many at a time and in the order of their keys. Written at once each would cost a page of its own, since keys are
// hashes: some forty times as many bytes.
//
// Goroutines: one for each open journal, which commits; Close waits for it.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

var (
	// ErrInUse says that somebody else, in this program or another one, has the journal open.
	ErrInUse = errors.New("it is in use; let one map, in one program, use a journal at a time")
	// ErrForeign says that a file is something else.
	ErrForeign = errors.New("it is no journal; name another file")
	// ErrDamaged says that the file is not as it was written.
	ErrDamaged = errors.New("it is damaged; take it from a backup, or remove it, and everything is computed again")
	// ErrRemoved says that the file has no name any more, so that what is written is in no file that could be opened again.
	ErrRemoved = errors.New("it was removed or replaced while it was in use, and what it had is gone; the next run computes everything again")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the journal is closed")
)

// Error is the error of an operation on a journal.
type Error struct {
	Op, Path string
	Err      error
}

func (e *Error) Error() string { return e.Op + " journal " + e.Path + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

var (
	bucketMeta    = []byte("sbx")
	bucketRecords = []byte("records")
	bucketIndex   = []byte("index")
	bucketGroups  = []byte("groups")

	keyFormat  = []byte("format")  // of this file; its value is format
	keyIndexed = []byte("indexed") // the number of the last record that the index has
)

// format is what the value of keyFormat must be.
const format = "journal 1"

// lockTime is how long a lock that somebody else has is waited for: not at all, but bbolt takes 0 for ever.
const lockTime = time.Millisecond

// magic is what bbolt's files have behind the header of their first page.
const (
	magic   = 0xED0CDAED
	magicAt = 16
)

// minSize is what the smallest database has: four pages, which are at least that long wherever Go runs.
const minSize = 4 * 4096

// Journal is an open file. Its methods may be called at the same time.
type Journal struct {
	path   string
	file   *os.File // the database's
	db     *bbolt.DB
	broken atomic.Bool // bbolt has panicked, and may hold its locks for ever
	last   uint64      // the number of the last record that there was when the journal was opened

	used  used           // records that were taken; guarded by mu
	after map[Key]uint64 // the last that was taken, of inputs that came more than once; guarded by mu

	mu     sync.Mutex
	wake   *sync.Cond // there is something to commit, or the journal is being closed
	next   *batch     // what is committed next; nil if there is nothing
	closed bool
	failed error // why nothing more can be committed
	done   chan struct{}
}

// batch is what is committed at once.
type batch struct {
	records []Record
	done    chan struct{} // closed when err is known
	err     error
}

// Open opens the journal in a file, and makes one where there is none.
func Open(path string) (*Journal, error) {
	j := &Journal{path: path, after: map[Key]uint64{}, done: make(chan struct{})}
	j.wake = sync.NewCond(&j.mu)
	if err := j.guard("open", func() error { return j.open(false) }); err != nil {
		return nil, err
	}
	if err := j.guard("open", j.index); err != nil {
		_ = j.shut() // the first error says why
		return nil, err
	}
	go j.commit()
	return j, nil
}

// open opens the file; only to read if reading is true, which then must be there.
func (j *Journal) open(reading bool) error {
	info, err := os.Stat(j.path)
	isNew := errors.Is(err, fs.ErrNotExist) && !reading
	switch {
	case isNew:
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return ErrForeign
	case info.Size() == 0 && reading:
		return ErrForeign
	}
	options := *bbolt.DefaultOptions
	options.Timeout, options.ReadOnly, options.FreelistType = lockTime, reading, bbolt.FreelistMapType
	options.OpenFile = func(name string, flag int, mode os.FileMode) (file *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		j.file = file
		return file, err
	}
	db, err := bbolt.Open(j.path, 0o600, &options)
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch):
		return ErrForeign
	case errors.Is(err, berrors.ErrChecksum), err != nil && !isNew && 0 < info.Size() && info.Size() < minSize:
		if !mayBeDatabase(j.path) {
			return ErrForeign
		}
		return fmt.Errorf("%w (%w)", ErrDamaged, err)
	case err != nil:
		return err
	}
	j.db = db
	if reading {
		err = db.View(check)
	} else {
		err = db.Update(prepare)
	}
	if err == nil {
		err = j.current()
	}
	if err == nil && isNew {
		err = syncFolder(filepath.Dir(j.path)) // or the file's name may not outlive a loss of power
	}
	if err != nil {
		_ = db.Close() // the first error says why
		return err
	}
	return nil
}

// mayBeDatabase is false for files that bbolt did not begin, so that nobody is told to remove them. One that was cut short by a loss
// of power may have zeros where bbolt's number was to be.
func mayBeDatabase(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	head := make([]byte, magicAt+4)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false
	}
	head = head[:n]
	return len(bytes.Trim(head, "\x00")) == 0 || n == magicAt+4 && binary.NativeEndian.Uint32(head[magicAt:]) == magic
}

// current refuses a file that [Compact] has replaced before it was locked here.
func (j *Journal) current() error {
	opened, err := j.file.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(j.path)
	if err == nil && !os.SameFile(opened, now) {
		return ErrInUse
	}
	return err
}

// check refuses databases of other programs, and of versions that don't exist yet.
func check(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	switch {
	case meta == nil:
		return ErrForeign
	case string(meta.Get(keyFormat)) != format:
		return fmt.Errorf("its format is %q, and this program knows %q; use the version of sbx that wrote it", meta.Get(keyFormat), format)
	case tx.Bucket(bucketRecords) == nil || tx.Bucket(bucketIndex) == nil || tx.Bucket(bucketGroups) == nil:
		return ErrDamaged
	}
	return nil
}

// prepare makes the buckets of a new file.
func prepare(tx *bbolt.Tx) error {
	if first, _ := tx.Cursor().First(); first != nil {
		return check(tx)
	}
	for _, name := range [][]byte{bucketRecords, bucketIndex, bucketGroups, bucketMeta} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketMeta).Put(keyFormat, []byte(format))
}

func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	err = folder.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) {
		err = nil // this system has no such thing for folders
	}
	return errors.Join(err, folder.Close())
}

// guard calls fn, and makes an error of what a damaged file does to bbolt: pages that it can't make sense of are panics, and so are pages
// that the file, which is mapped into memory, no longer has. bbolt is not called again after that: it may hold its locks for ever.
func (j *Journal) guard(op string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if crash := recover(); crash != nil {
			err = fmt.Errorf("%w (%v)", ErrDamaged, crash)
			if !j.broken.Swap(true) && j.file != nil {
				unlock(j.file)
				_ = j.file.Close() // the error says enough
			}
		}
		if err != nil {
			err = &Error{Op: op, Path: j.path, Err: err}
		}
	}()
	if j.broken.Load() {
		return ErrDamaged
	}
	return fn()
}

// shut closes the file, unless that was done.
func (j *Journal) shut() error {
	if j.broken.Load() {
		return nil
	}
	return j.guard("close", j.db.Close)
}

// maxIndexed is how many records are indexed in one transaction: it takes some 40 bytes of memory for each.
const maxIndexed = 100_000

// index enters the records that the index does not have yet.
func (j *Journal) index() error {
	for {
		var entries [][]byte
		var last uint64
		err := j.db.View(func(tx *bbolt.Tx) error {
			last = number(tx.Bucket(bucketMeta).Get(keyIndexed))
			j.last = last
			c := tx.Bucket(bucketRecords).Cursor()
			for k, v := c.Seek(numberKey(last + 1)); k != nil && len(entries) < maxIndexed; k, v = c.Next() {
				r, err := parse(k, v)
				if err != nil {
					return err
				}
				last = number(k)
				entries = append(entries, slices.Concat(r.Key[:], k))
			}
			return nil
		})
		if err != nil || len(entries) == 0 {
			return err
		}
		slices.SortFunc(entries, bytes.Compare)
		err = j.db.Update(func(tx *bbolt.Tx) error {
			index := tx.Bucket(bucketIndex)
			for _, entry := range entries {
				if err := index.Put(entry, nil); err != nil {
					return err
				}
			}
			return tx.Bucket(bucketMeta).Put(keyIndexed, numberKey(last))
		})
		if err != nil {
			return err
		}
	}
}

// Take returns a record for the input with that key which was there when the journal was opened, and which was not taken since; found is
// false if there is none.
func (j *Journal) Take(key Key) (r Record, found bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return r, false, &Error{Op: "read", Path: j.path, Err: ErrClosed}
	}
	if j.last == 0 {
		return r, false, nil // nothing was there
	}
	err = j.guard("read", func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketIndex).Cursor()
			last, again := j.after[key]
			for k, _ := c.Seek(append(key[:], numberKey(last+1)...)); bytes.HasPrefix(k, key[:]); k, _ = c.Next() {
				n := k[len(key):]
				if j.used.has(number(n)) {
					again = true
					continue
				}
				value := tx.Bucket(bucketRecords).Get(n)
				if value == nil {
					return ErrDamaged
				}
				if r, err = parse(n, value); err != nil {
					return err
				}
				if r.Key != key {
					return ErrDamaged
				}
				if again { // or each would go past all that came before
					j.after[key] = number(n)
				}
				j.used.add(number(n))
				found = true
				return nil
			}
			return nil
		})
	})
	return r, found, err
}

// Append adds a record, and returns when it is on the disk. What is appended at the same time is written at once. r.Data must not be
// changed until then. When the first error has been returned, nothing more is written.
func (j *Journal) Append(r Record) error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return &Error{Op: "write", Path: j.path, Err: ErrClosed}
	}
	if j.next == nil {
		j.next = &batch{done: make(chan struct{})}
		j.wake.Signal()
	}
	b := j.next
	b.records = append(b.records, r)
	j.mu.Unlock()
	<-b.done
	return b.err
}

// commit is the goroutine that writes.
func (j *Journal) commit() {
	defer close(j.done)
	for {
		j.mu.Lock()
		for j.next == nil && !j.closed {
			j.wake.Wait()
		}
		b := j.next
		j.next = nil
		j.mu.Unlock()
		if b == nil {
			return
		}
		if j.failed == nil {
			j.failed = j.guard("write", func() error {
				if err := j.db.Update(b.put); err != nil {
					return err
				}
				return named(j.file)
			})
		}
		b.err = j.failed
		close(b.done)
	}
}

func (b *batch) put(tx *bbolt.Tx) error {
	records := tx.Bucket(bucketRecords)
	records.FillPercent = 1 // they are only ever appended
	for _, r := range b.records {
		n, err := records.NextSequence()
		if err != nil {
			return err
		}
		key := numberKey(n)
		if err := records.Put(key, r.encode(key)); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file. Records that are being appended are written first.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.wake.Signal()
	j.mu.Unlock()
	<-j.done
	if closed {
		return nil
	}
	return j.shut()
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// number reads a key; it is 0 if there is none.
func number(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// used is a set of numbers, one bit for each up to the highest.
type used []uint64

func (u used) has(n uint64) bool { return n/64 < uint64(len(u)) && u[n/64]&(1<<(n%64)) != 0 }

func (u *used) add(n uint64) {
	if need := n/64 + 1; need > uint64(len(*u)) {
		*u = append(*u, make([]uint64, need-uint64(len(*u)))...)
	}
	(*u)[n/64] |= 1 << (n % 64)
}
