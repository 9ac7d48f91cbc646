package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"go.etcd.io/bbolt"
)

// Group is a function with one version of its code.
type Group struct {
	// Function is the function's registered name, and Types the fingerprint of its types.
	Function string `json:"function"`
	Types    string `json:"types"`
	// Version is that of its code.
	Version string `json:"version"`
	// Shape tells who reads results without the function's types what is in them. A Shape of package registry; nil where there is nothing to tell.
	Shape json.RawMessage `json:"shape,omitempty"`
}

// Group returns the number of a group, which is a new one if the journal did not have it.
func (j *Journal) Group(g Group) (n uint32, err error) {
	text, err := json.Marshal(g)
	if err != nil {
		return 0, &Error{Op: "write", Path: j.path, Err: err}
	}
	err = j.guard("write", func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			groups := tx.Bucket(bucketGroups)
			c := groups.Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				var known Group
				if json.Unmarshal(v, &known) == nil && known.Function == g.Function && known.Types == g.Types && known.Version == g.Version {
					n = binary.BigEndian.Uint32(k)
					return nil
				}
			}
			next, err := groups.NextSequence()
			if err != nil {
				return err
			}
			if next > math.MaxUint32 {
				return errors.New("it has too many versions; compact it")
			}
			n = uint32(next)
			return groups.Put(binary.BigEndian.AppendUint32(nil, n), text)
		})
	})
	return n, err
}

// View is a journal that is only read. Several may be open at a time, but none while the journal is being written.
type View struct{ j *Journal }

// Read opens a journal to look at it.
func Read(path string) (*View, error) {
	j := &Journal{path: path}
	if err := j.guard("open", func() error { return j.open(true) }); err != nil {
		return nil, err
	}
	return &View{j}, nil
}

// Close closes the file.
func (v *View) Close() error { return v.j.shut() }

// Groups returns the groups by their numbers.
func (v *View) Groups() (groups map[uint32]Group, err error) {
	groups = map[uint32]Group{}
	err = v.j.guard("read", func() error {
		return v.j.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketGroups).ForEach(func(k, value []byte) error {
				var g Group
				if err := json.Unmarshal(value, &g); err != nil || len(k) != 4 {
					return fmt.Errorf("group %x: %w", k, ErrDamaged)
				}
				groups[binary.BigEndian.Uint32(k)] = g
				return nil
			})
		})
	})
	return groups, err
}

// pageSize is how many records are read in one transaction.
const pageSize = 1000

// Records yields all records, in the order in which they were written. An error is the last that it yields.
func (v *View) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for last := uint64(0); ; {
			var page []Record
			err := v.j.guard("read", func() error {
				return v.j.db.View(func(tx *bbolt.Tx) error {
					c := tx.Bucket(bucketRecords).Cursor()
					size := 0
					for k, value := c.Seek(numberKey(last + 1)); k != nil && len(page) < pageSize && size < pageSize<<10; k, value = c.Next() {
						r, err := parse(k, value)
						if err != nil {
							return err
						}
						page, last = append(page, r), number(k)
						size += len(r.Data)
					}
					return nil
				})
			})
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

// Compact writes the journal anew, without what keep does not want and without the room that is not used any more. The new file takes
// the old one's place when it is whole and on the disk.
func Compact(path string, keep func(Group, Record) bool) (kept, dropped int, err error) {
	fail := func(err error) error { return &Error{Op: "compact", Path: path, Err: err} }
	path, err = filepath.EvalSymlinks(path) // the file is replaced, and not a link to it
	if err != nil {
		return 0, 0, fail(err)
	}
	old, err := Open(path) // and not Read, so that nobody writes meanwhile
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, fail(err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return 0, 0, fail(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary.Name()) // the first error says why
		}
	}()
	if err := errors.Join(temporary.Chmod(info.Mode().Perm()), temporary.Close()); err != nil {
		return 0, 0, fail(err)
	}
	if kept, dropped, err = rewrite(&View{old}, temporary.Name(), keep); err != nil {
		return 0, 0, err
	}
	if runtime.GOOS == "windows" { // where an open file can't be replaced
		if err := old.Close(); err != nil {
			return 0, 0, err
		}
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return 0, 0, fail(err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return 0, 0, fail(err)
	}
	return kept, dropped, nil
}

// rewrite copies what keep wants into an empty file.
func rewrite(from *View, to string, keep func(Group, Record) bool) (kept, dropped int, err error) {
	groups, err := from.Groups()
	if err != nil {
		return 0, 0, err
	}
	fresh := &Journal{path: to}
	if err := fresh.guard("open", func() error { return fresh.open(false) }); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, fresh.shut()) }()
	numbers := map[uint32]uint32{} // old to new
	var b batch
	flush := func() error {
		err := fresh.guard("write", func() error { return fresh.db.Update(b.put) })
		b.records = b.records[:0]
		return err
	}
	size := 0
	for r, err := range from.Records() {
		if err != nil {
			return 0, 0, err
		}
		if _, ok := groups[r.Group]; !ok {
			return 0, 0, &Error{Op: "compact", Path: from.j.path, Err: fmt.Errorf("a record is of version %d, which the journal does not have: %w", r.Group, ErrDamaged)}
		}
		if !keep(groups[r.Group], r) {
			dropped++
			continue
		}
		if _, ok := numbers[r.Group]; !ok {
			if numbers[r.Group], err = fresh.Group(groups[r.Group]); err != nil {
				return 0, 0, err
			}
		}
		r.Group = numbers[r.Group]
		b.records = append(b.records, r)
		kept++
		if size += len(r.Data) + headSize; size > 4<<20 {
			if err := flush(); err != nil {
				return 0, 0, err
			}
			size = 0
		}
	}
	return kept, dropped, flush()
}
