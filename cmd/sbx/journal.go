package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sandboxfn/sbx/internal/journal"
	"github.com/sandboxfn/sbx/registry"
)

// read opens a journal, which the caller closes.
func read(path string) (*journal.View, map[uint32]journal.Group, error) {
	view, err := journal.Read(path)
	if err != nil {
		return nil, nil, err
	}
	groups, err := view.Groups()
	if err != nil {
		_ = view.Close() // the first error says why
		return nil, nil, err
	}
	return view, groups, nil
}

// list prints a line for each function and version.
func list(path string, w io.Writer) error {
	view, groups, err := read(path)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // it was only read
	type counts struct {
		results, failures int
		bytes             int64
		last              time.Time
	}
	of := map[uint32]*counts{}
	for number := range groups {
		of[number] = &counts{}
	}
	for r, err := range view.Records() {
		if err != nil {
			return err
		}
		c := of[r.Group]
		if c == nil {
			return unknownVersion(path, r.Group)
		}
		c.bytes += int64(len(r.Data))
		c.last = r.Time
		if r.Failed {
			c.failures++
		} else {
			c.results++
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FUNCTION\tVERSION\tRESULTS\tERRORS\tBYTES\tLAST")
	for _, number := range slices.Sorted(maps.Keys(groups)) {
		g, c := groups[number], of[number]
		last := "-"
		if !c.last.IsZero() {
			last = c.last.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\n", printable(g.Function), printable(g.Version), c.results, c.failures, c.bytes, last)
	}
	return table.Flush()
}

// exported is a line of export.
type exported struct {
	Function string `json:"function"`
	Version  string `json:"version"`
	// Index is the input's place in the run that computed it, and Input the hash that it is found by.
	Index int       `json:"index"`
	Input string    `json:"input"`
	Time  time.Time `json:"time"`
	// Error is there instead of Result if the call failed.
	Error  string `json:"error,omitempty"`
	Result any    `json:"result,omitempty"`
}

func export(path string, w io.Writer) error {
	view, groups, err := read(path)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // it was only read
	out := bufio.NewWriter(w)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	shapes := map[uint32]registry.Shape{}
	for number, g := range groups {
		var shape registry.Shape
		if json.Unmarshal(g.Shape, &shape) == nil { // else results are shown as they are
			shapes[number] = shape
		}
	}
	for r, err := range view.Records() {
		if err != nil {
			return err
		}
		g, ok := groups[r.Group]
		if !ok {
			return unknownVersion(path, r.Group)
		}
		line := exported{Function: g.Function, Version: g.Version, Index: r.Index, Input: hex.EncodeToString(r.Key[:]), Time: r.Time.UTC(), Error: r.Text}
		if !r.Failed {
			line.Result = readable(r.Data, shapes[r.Group])
		}
		text.Reset()
		if err := encoder.Encode(line); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		if _, err := out.Write(escaped(text.Bytes())); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func unknownVersion(path string, number uint32) error {
	return fmt.Errorf("%s: a record is of version %d, which the journal does not have: %w", path, number, journal.ErrDamaged)
}

// compact removes from one function's records, or from all if function is empty, errors if failed is true, and other versions than keep if that is given.
func compact(path string, failed bool, function, keep string, w io.Writer) error {
	if err := known(path, function, keep); err != nil {
		return err
	}
	kept, dropped, err := journal.Compact(path, func(g journal.Group, r journal.Record) bool {
		if function != "" && g.Function != function {
			return true
		}
		return (!failed || !r.Failed) && (keep == "" || g.Version == keep)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "kept %d records, removed %d\n", kept, dropped)
	return err
}

// known refuses a function or a version that the journal does not have: a slip of the pen would remove everything.
func known(path, function, keep string) error {
	view, groups, err := read(path)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // it was only read
	for _, g := range groups {
		if (function == "" || g.Function == function) && (keep == "" || g.Version == keep) {
			return nil
		}
	}
	switch {
	case keep != "":
		return fmt.Errorf("%s has no version %q; sbx journal list shows what it has", path, keep)
	case function != "":
		return fmt.Errorf("%s has no function %q; sbx journal list shows what it has", path, function)
	}
	return nil // it is empty
}
