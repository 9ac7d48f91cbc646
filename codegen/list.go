package codegen

import (
	"context"
	"go/token"
	"go/types"
	"maps"
	"slices"
)

// A Wrapped is a wrapped function, as List finds it.
type Wrapped struct {
	Name      string // as in the registry: "example.com/m.Train"
	Signature string // "func(context.Context, Job) (Report, error)"
	Declared  token.Position
	Wraps     []token.Position
}

// List finds the wrapped functions of the selected packages, and the diagnostics that Run would give. They are sorted by name.
func List(ctx context.Context, config Config) ([]Wrapped, []Diagnostic, error) {
	a, err := inspect(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	byName := map[string]*Wrapped{}
	for _, u := range a.units {
		if !a.selected[u.path] {
			continue
		}
		for _, wrap := range u.wraps {
			name := wrap.instanceName()
			if byName[name] == nil {
				byName[name] = &Wrapped{
					Name:      name,
					Signature: types.TypeString(wrap.signature(), seenFrom(wrap.Func.Pkg())),
					Declared:  u.pkg.Fset.Position(wrap.Func.Pos()),
				}
			}
			byName[name].Wraps = append(byName[name].Wraps, u.pkg.Fset.Position(wrap.Pos))
		}
	}
	var list []Wrapped
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, *byName[name])
	}
	return list, a.diagnostics, nil
}
