package artifact

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Diff says how a worker that would be built now differs from the one that there is, in lines that people read: "Train:
// field Job.Epochs added". It is empty if there is nothing to build.
func Diff(old, now *Manifest) []string {
	if old.Key() == now.Key() {
		return nil
	}
	var lines []string
	changed := func(what, from, to string) {
		if from != to {
			lines = append(lines, fmt.Sprintf("%s: %s, was %s", what, orNone(to), orNone(from)))
		}
	}
	changed("package", old.Package, now.Package)
	changed("platform", old.Platform, now.Platform)
	changed("sbx", old.SBX, now.SBX)
	changed("Go", old.Go, now.Go)
	changed("settings", strings.Join(old.Settings, " "), strings.Join(now.Settings, " "))
	lines = append(lines, diffFunctions(old, now)...)
	return append(lines, diffSources(old.Sources, now.Sources)...)
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func diffFunctions(old, now *Manifest) []string {
	before, after := map[string]Function{}, map[string]Function{}
	for _, f := range old.Functions {
		before[f.Name] = f
	}
	for _, f := range now.Functions {
		after[f.Name] = f
	}
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := before[name]
		is, has := after[name]
		short := shortName(name)
		switch {
		case !had:
			lines = append(lines, short+": added")
		case !has:
			lines = append(lines, short+": removed")
		default:
			if was.Signature != is.Signature {
				lines = append(lines, fmt.Sprintf("%s: %s, was %s", short, is.Signature, was.Signature))
			}
			for _, line := range diffTypes(old, now, was.Types, is.Types) {
				lines = append(lines, short+": "+line)
			}
		}
	}
	return lines
}

// shortName is "Train" for "example.com/m.Train", and "Gen[example.com/m.T]" for "example.com/m.Gen[example.com/m.T]".
func shortName(name string) string {
	head, args, generic := strings.Cut(name, "[")
	head = path.Base(head)
	if _, after, ok := strings.Cut(head, "."); ok {
		head = after
	}
	if generic {
		return head + "[" + args
	}
	return head
}

func diffTypes(old, now *Manifest, was, is []string) []string {
	var lines []string
	for _, name := range is {
		if !slices.Contains(was, name) {
			continue // the field or the signature that brought it says so
		}
		before, after := old.Types[name], now.Types[name]
		if before.Underlying != after.Underlying {
			lines = append(lines, fmt.Sprintf("%s is %s, was %s", after.Text, kindOf(after), kindOf(before)))
			continue
		}
		lines = append(lines, diffFields(after.Text, before.Fields, after.Fields)...)
	}
	return lines
}

func kindOf(t Type) string {
	if t.Underlying == "" {
		return "a struct"
	}
	return t.Underlying
}

func diffFields(owner string, old, now []Field) []string {
	var lines []string
	find := func(fields []Field, name string) *Field {
		if i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name }); i >= 0 {
			return &fields[i]
		}
		return nil
	}
	var kept, before []string
	for _, f := range now {
		switch was := find(old, f.Name); {
		case was == nil:
			lines = append(lines, fmt.Sprintf("field %s.%s added", owner, f.Name))
		case was.Type != f.Type:
			lines = append(lines, fmt.Sprintf("field %s.%s: %s, was %s", owner, f.Name, f.Type, was.Type))
			kept = append(kept, f.Name)
		default:
			kept = append(kept, f.Name)
		}
	}
	for _, f := range old {
		if find(now, f.Name) == nil {
			lines = append(lines, fmt.Sprintf("field %s.%s removed", owner, f.Name))
		} else {
			before = append(before, f.Name)
		}
	}
	if !slices.Equal(kept, before) {
		lines = append(lines, fmt.Sprintf("fields of %s in another order", owner))
	}
	return lines
}

func diffSources(old, now []Source) []string {
	before, after := map[string]string{}, map[string]string{}
	for _, s := range old {
		before[s.String()] = s.Sum
	}
	for _, s := range now {
		after[s.String()] = s.Sum
	}
	var lines []string
	for _, s := range now {
		switch sum, had := before[s.String()]; {
		case !had:
			lines = append(lines, s.String()+": added")
		case sum != s.Sum:
			lines = append(lines, s.String()+": changed")
		}
	}
	for _, s := range old {
		if _, has := after[s.String()]; !has {
			lines = append(lines, s.String()+": removed")
		}
	}
	return lines
}
