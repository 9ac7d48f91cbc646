package sbx

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/artifact"
	"github.com/sandboxfn/sbx/internal/journal"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
)

var (
	// ErrJournalInUse is wrapped by the error of a map whose [Journal] another map has open, in this program or another one.
	ErrJournalInUse = journal.ErrInUse
	// ErrNoJournal is wrapped by the error of a map whose [Journal] is a file of another kind, which was left as it is.
	ErrNoJournal = journal.ErrForeign
	// ErrJournalDamaged is wrapped by the error of a map whose [Journal] is not as it was written.
	ErrJournalDamaged = journal.ErrDamaged
)

// journalAhead is how many more inputs a map with a journal takes than one without. Results wait for the disk together, and the more of
// them do, the fewer times must it be waited for.
const journalAhead = 1024

// Journal keeps what comes of each input in a file, so that a map which was interrupted, by whatever it was, goes on where it was when it is run
// again: results that the file has are handed out without a call, in their places, and only the other inputs are computed. The file is made where there is none.
//
// A result, or an error of the function, is on the disk before it is handed out. It is found again by the function's name and types, the version of its code (see
// [Version]), and the input as it is encoded; equal inputs have a result each. So inputs may come in another order, or more of them, and several functions, one
// after the other, can have one file. An error that is known to have come of the call itself is handed out again, too, as is that of a call which may have run and
// whose sandbox was lost: command sbx (go run github.com/sandboxfn/sbx/cmd/sbx journal) lists such a file, exports it as JSON, and removes failures or old versions from it.
//
// What was running when the program was killed is computed again, so functions run at least once then, even without [Retries].
//
// What a function returns may depend on more than its input: on what [Env], [Secret] and [Mount] give its sandbox, on metadata, on the time. None of
// that is part of what a result is found by, so use another file, or another Version, where it matters. Marshalers of an input's types must
// encode equal values equally. Interceptors are not called for results that the file has. With [FailFast], a run ends at the first error that the file has.
//
// One map at a time may have a journal open, in one program; the error of a second one wraps [ErrJournalInUse]. If the file can't be
// written, because the disk is full, say, the map ends with that error; what it had handed out is kept. It ends, too, if the file is removed meanwhile.
// Without [Ahead], a map with a journal takes 1,024 inputs more than others, which are in memory until their results are handed out: give Ahead where inputs or results are large.
func Journal(path string) MapOption {
	return mapOption(func(c *mapConfig) {
		if path == "" {
			c.errs = append(c.errs, &OptionError{Option: "Journal", Reason: "is an empty path; name a file"})
			return
		}
		c.journal = func(f *function) (mapJournal, error) { return openJournal(path, f) }
	})
}

// Version names the version of the function's code for journals: results that a [Journal] has of another version are not used. Without it the version is a hash
// of the program, and of the worker if that is another file: any change of the code makes all results be computed again. Give it to keep results over
// changes that don't matter, and change it with those that do.
func Version(version string) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if version == "" {
			c.errs = append(c.errs, &OptionError{Option: "Version", Reason: "is empty; leave it out, or give a text that changes with the function"})
		}
		c.version = version
	})
}

// mapJournal is a journal as a map sees it: an interface, so that the database is linked only into programs that use it.
type mapJournal interface {
	// recall returns what an earlier map wrote down for a request; nil if nothing.
	recall(r *request) (*outcome, error)
	// note writes down what came of a request. It returns when that is on the disk.
	note(r *request, data []byte, failure error) error
	close() error
}

// journaled is a map's journal.
type journaled struct {
	f     *function
	file  *journal.Journal
	parts [][]byte // of the keys, before the arguments
	group uint32
}

func openJournal(path string, f *function) (mapJournal, error) {
	version, err := f.version()
	if err != nil {
		return nil, err
	}
	entry := f.entry.Load()
	group := journal.Group{Function: entry.Name(), Types: entry.Fingerprint(), Version: version}
	if result := entry.Result(); result != nil {
		codec, err := registry.CodecOf(result)
		if err != nil {
			return nil, err // as calls would fail
		}
		if shape := codec.Shape(); shape != nil {
			if group.Shape, err = json.Marshal(shape); err != nil {
				return nil, err
			}
		}
	}
	file, err := journal.Open(path)
	if err != nil {
		return nil, err
	}
	j := &journaled{f: f, file: file, parts: [][]byte{[]byte(group.Function), []byte(group.Types), []byte(group.Version)}}
	if j.group, err = file.Group(group); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

func (j *journaled) key(r *request) journal.Key {
	return journal.KeyOf(append(j.parts[:len(j.parts):len(j.parts)], r.args)...)
}

func (j *journaled) recall(r *request) (*outcome, error) {
	past, found, err := j.file.Take(j.key(r))
	switch {
	case err != nil || !found:
		return nil, err
	case !past.Failed:
		return &outcome{data: past.Data}, nil
	}
	call, err := j.f.decodeFailure(past.Data, r.index)
	if err != nil {
		return nil, err
	}
	return &outcome{err: call}, nil
}

func (j *journaled) note(r *request, data []byte, failure error) error {
	past := journal.Record{Key: j.key(r), Group: j.group, Index: r.index, Failed: failure != nil, Time: time.Now(), Data: data}
	if failure != nil {
		var err error
		if past.Data, err = encodeFailure(failure); err != nil {
			return err
		}
		past.Text = failure.Error()
	}
	if len(past.Data) > journal.MaxData {
		return fmt.Errorf("write journal: the result of input %d has %d bytes, and a journal takes %d; return less, or a place where the rest is", r.index, len(past.Data), journal.MaxData)
	}
	return j.file.Append(past)
}

func (j *journaled) close() error { return j.file.Close() }

// version is that of the code that runs in sandboxes.
func (f *function) version() (string, error) {
	if f.config.version != "" {
		return f.config.version, nil
	}
	program, err := programHash()
	if err != nil {
		return "", fmt.Errorf("the version of the program's code is not known: %w; give one by sbx.Version", err)
	}
	others, err := f.session.workers.hash()
	if err != nil {
		return "", fmt.Errorf("the version of the worker's code is not known: %w; give one by sbx.Version", err)
	}
	return "sha256:" + program + others, nil
}

var programHash = sync.OnceValues(func() (string, error) {
	path, err := worker.Executable()
	if err != nil {
		return "", err
	}
	return artifact.HashFile(path)
})
