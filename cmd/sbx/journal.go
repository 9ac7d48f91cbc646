package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sandboxfn/sbx/internal/journal"
	"github.com/vmihailenco/msgpack/v5"
)

// list prints a line for each function and version.
func list(path string, w io.Writer) error {
	view, err := journal.Read(path)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // it was only read
	groups, err := view.Groups()
	if err != nil {
		return err
	}
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
			return fmt.Errorf("%s: a record is of version %d, which the journal does not have: %w", path, r.Group, journal.ErrDamaged)
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
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\n", g.Function, g.Version, c.results, c.failures, c.bytes, last)
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
	view, err := journal.Read(path)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // it was only read
	groups, err := view.Groups()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for r, err := range view.Records() {
		if err != nil {
			return err
		}
		g := groups[r.Group]
		line := exported{Function: g.Function, Version: g.Version, Index: r.Index, Input: hex.EncodeToString(r.Key[:]), Time: r.Time.UTC(), Error: r.Text}
		if !r.Failed {
			line.Result = readable(r.Data)
		}
		if err := encoder.Encode(line); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// readable is an encoded result as JSON can have it; its bytes if it is none that can be read without the program's types.
func readable(data []byte) any {
	if len(data) == 0 { // of a function without a result
		return nil
	}
	decoder := msgpack.NewDecoder(bytes.NewReader(data))
	decoder.SetMapDecoder(func(d *msgpack.Decoder) (any, error) { return d.DecodeUntypedMap() })
	value, err := decoder.DecodeInterface()
	if err != nil {
		return data
	}
	return plain(value)
}

// plain is a value without what JSON does not have: keys that are no strings, and numbers that are none.
func plain(value any) any {
	switch v := value.(type) {
	case map[any]any:
		object := make(map[string]any, len(v))
		for key, element := range v {
			object[fmt.Sprint(key)] = plain(element)
		}
		return object
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	case float32:
		return plain(float64(v))
	}
	return value
}

func compact(path string, failed bool, keep string, w io.Writer) error {
	kept, dropped, err := journal.Compact(path, func(g journal.Group, r journal.Record) bool {
		return (!failed || !r.Failed) && (keep == "" || g.Version == keep)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "kept %d records, removed %d\n", kept, dropped)
	return err
}
