package registry

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Manifest says which functions a program can run.
type Manifest struct {
	Functions []ManifestFunction // sorted by name
}

// A ManifestFunction is what a manifest says of one function.
type ManifestFunction struct {
	Name        string
	Signature   string
	Fingerprint string
}

// CurrentManifest describes what is registered in this process.
func CurrentManifest() Manifest {
	functions.RLock()
	entries := make([]*Entry, 0, len(functions.byName))
	for _, entry := range functions.byName {
		entries = append(entries, entry)
	}
	functions.RUnlock()

	slices.SortFunc(entries, func(a, b *Entry) int { return cmp.Compare(a.name, b.name) })
	manifest := Manifest{Functions: make([]ManifestFunction, 0, len(entries))}
	for _, entry := range entries {
		manifest.Functions = append(manifest.Functions, ManifestFunction{
			Name:        entry.Name(),
			Signature:   entry.Signature(),
			Fingerprint: entry.Fingerprint(),
		})
	}
	return manifest
}

// Diff says in which functions the other manifest differs from m, one line a function, sorted by name:
// "example.com/m.Train: signature differs: …". It is empty if there is no difference.
func (m Manifest) Diff(other Manifest) []string {
	theirs := map[string]ManifestFunction{}
	for _, function := range other.Functions {
		theirs[function.Name] = function
	}
	var lines []string
	for _, function := range m.Functions {
		their, ok := theirs[function.Name]
		delete(theirs, function.Name)
		switch {
		case !ok:
			lines = append(lines, function.Name+": missing in the other program")
		case their.Fingerprint != function.Fingerprint:
			mine, their := difference(function.Signature, their.Signature)
			lines = append(lines, fmt.Sprintf("%s: signature differs: %s here, %s in the other program",
				function.Name, mine, their))
		}
	}
	for name := range theirs {
		lines = append(lines, name+": only in the other program")
	}
	slices.Sort(lines)
	return lines
}

// The text around the first difference of two signatures that is shown, in bytes.
const (
	differenceBefore = 24
	differenceAfter  = 48
)

// difference cuts two texts down to what surrounds their first difference.
func difference(a, b string) (string, string) {
	at := 0
	for at < len(a) && at < len(b) && a[at] == b[at] {
		at++
	}
	return window(a, at), window(b, at)
}

func window(text string, at int) string {
	from, to := max(at-differenceBefore, 0), min(at+differenceAfter, len(text))
	for from > 0 && !utf8.RuneStart(text[from]) {
		from--
	}
	for to < len(text) && !utf8.RuneStart(text[to]) {
		to++
	}
	var shown strings.Builder
	if from > 0 {
		shown.WriteString("…")
	}
	shown.WriteString(text[from:to])
	if to < len(text) {
		shown.WriteString("…")
	}
	return shown.String()
}
