package main

import (
	"cmp"
	"debug/elf"
	"debug/gosym"
	"debug/macho"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// largest says which packages have most code in an executable, n lines at most. It reads the table by which Go programs print stacks, which
// is there in stripped ones too. There are no lines for a format that it can't read.
func largest(path string, n int) []string {
	table, text, ok := functionTable(path)
	if !ok {
		return nil
	}
	symbols, err := gosym.NewTable(nil, gosym.NewLineTable(table, text))
	if err != nil {
		return nil
	}
	sizes := map[string]uint64{}
	total := uint64(0)
	for _, f := range symbols.Funcs {
		if f.End < f.Entry {
			continue
		}
		sizes[packageOf(f.Name)] += f.End - f.Entry
		total += f.End - f.Entry
	}
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	var lines []string
	for _, name := range names[:min(n, len(names))] {
		lines = append(lines, fmt.Sprintf("%6.1f%% of the code: %s", 100*float64(sizes[name])/float64(total), name))
	}
	return lines
}

func functionTable(path string) (table []byte, text uint64, ok bool) {
	if file, err := elf.Open(path); err == nil {
		defer func() { _ = file.Close() }()
		table, code := file.Section(".gopclntab"), file.Section(".text")
		if table == nil || code == nil {
			return nil, 0, false
		}
		data, err := table.Data()
		return data, code.Addr, err == nil
	}
	if file, err := macho.Open(path); err == nil {
		defer func() { _ = file.Close() }()
		table, code := file.Section("__gopclntab"), file.Section("__text")
		if table == nil || code == nil {
			return nil, 0, false
		}
		data, err := table.Data()
		return data, code.Addr, err == nil
	}
	return nil, 0, false
}

// packageOf is the import path in a function's name: "a.com/b/c" of "a.com/b/c.(*T).Method[go.shape.int]".
func packageOf(name string) string {
	name, _, _ = strings.Cut(name, "[")
	slash := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[slash:], '.'); dot >= 0 {
		return name[:slash+dot]
	}
	return name
}
