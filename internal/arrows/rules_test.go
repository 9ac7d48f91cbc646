package arrows_test

import (
	"maps"
	"slices"
	"strings"
)

// A graph is what packages import. The module's own paths are relative to it: its root is ".", and its drivers are
// "./driver/…". All others are whole.
type graph map[string]pkg

// A pkg is one package of a graph.
type pkg struct {
	// Name is the name in its package clause.
	Name string
	// Imports are the imports of its own files, TestImports those that only its tests have.
	Imports, TestImports []string
}

// A rule forbids some packages some imports.
type rule struct {
	name, reason string
	// from says which packages the rule binds.
	from func(path string) bool
	// forbids says whether such a package may not import another.
	forbids func(from, to string) bool
	// transitive rules hold for what the imports import, too.
	transitive bool
	// tests says that the rule holds for imports of tests, too.
	tests bool
}

// A violation is one forbidden import; chain leads from the package that the rule binds to what it may not import.
type violation struct {
	rule  string
	chain []string
}

// arrows is section 4 of the design.
var arrows = []rule{
	{
		name:    "driver is std-only",
		reason:  "whoever writes a backend should depend on nothing else of ours, nor on what we depend on",
		from:    is("./driver"),
		forbids: func(_, to string) bool { return ours(to) || !standard(to) },
	},
	{
		name:    "registry imports nothing of ours",
		reason:  "every package with generated code imports it, in the program and in the worker",
		from:    under("./registry"),
		forbids: func(from, to string) bool { return ours(to) && !under("./registry")(to) },
	},
	{
		name:       "worker imports neither sbx nor driver nor codegen",
		reason:     "it is linked into every program that has remote functions, and runs beside code that nobody trusts",
		from:       under("./worker"),
		forbids:    func(_, to string) bool { return to == "." || under("./driver")(to) || under("./codegen")(to) },
		transitive: true,
	},
	{
		name:   "codegen imports only registry and artifact",
		reason: "the generator must build and run where the program that it generates for does not",
		from:   under("./codegen"),
		forbids: func(_, to string) bool {
			return ours(to) && !under("./registry")(to) && !under("./codegen")(to) && to != "./internal/artifact"
		},
	},
	{
		name:    "artifact is std-only",
		reason:  "the generator and the session share what is known of a built worker, and nothing else",
		from:    is("./internal/artifact"),
		forbids: func(_, to string) bool { return ours(to) || !standard(to) },
	},
	{
		name:       "worker does without artifact",
		reason:     "a built worker's manifest is found by its marks, which must stand nowhere else in the file",
		from:       under("./worker"),
		forbids:    func(_, to string) bool { return to == "./internal/artifact" },
		transitive: true,
	},
	{
		name:    "nobody imports a concrete driver",
		reason:  "drivers are the user's choice; sbx has one default, and sbxtest one that runs anywhere",
		from:    func(from string) bool { return !under("./examples")(from) && !under("./bench")(from) },
		forbids: importsConcreteDriver,
	},
	{
		name:   "drivers know no protocol",
		reason: "a backend moves bytes; what they mean is between the session and the worker",
		from:   func(from string) bool { return under("./driver")(from) && !under("./driver/drivertest")(from) },
		forbids: func(_, to string) bool {
			return under("./internal/wire/launch")(to) || under("github.com/hashicorp/go-plugin")(to)
		},
	},
	{
		name:   "Kubernetes is in a module of its own",
		reason: "what talks to a cluster is as large as all the rest, and comes only to who uses it",
		from: func(from string) bool {
			return ours(from) && !under("./driver/kubernetes")(from) && !under("./examples/gometrics")(from)
		},
		forbids: func(_, to string) bool { return under("./driver/kubernetes")(to) || strings.HasPrefix(to, "k8s.io/") },
		tests:   true,
	},
	{
		name:    "nobody imports examples",
		reason:  "they are there to be copied and changed",
		from:    func(from string) bool { return !under("./examples")(from) },
		forbids: func(_, to string) bool { return under("./examples")(to) },
		tests:   true,
	},
}

// vagueNames are words that say nothing of what a package is for, or that the vocabulary has another word for.
var vagueNames = []string{"client", "manager", "engine", "util", "common", "helper", "types"}

// importsConcreteDriver leaves a driver its own packages, and sbx and sbxtest the one that each may import.
func importsConcreteDriver(from, to string) bool {
	name, concrete := concreteDriver(to)
	switch {
	case !concrete || under("./driver/"+name)(from):
		return false
	case from == ".":
		return name != "local"
	case from == "./sbxtest":
		return name != "inprocess"
	}
	return true
}

// concreteDriver says to which driver a package belongs, if to any.
func concreteDriver(path string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, "./driver/")
	name, _, _ = strings.Cut(rest, "/")
	return name, ok && name != "drivertest"
}

// check returns every breach of rules in g, in the order of the rules and then of the packages.
func check(g graph, rules []rule) []violation {
	var found []violation
	for _, r := range rules {
		for _, from := range slices.Sorted(maps.Keys(g)) {
			if r.from(from) {
				found = append(found, checkPackage(g, r, from)...)
			}
		}
	}
	return found
}

// checkPackage walks breadth first, so that chains are as short as they can be.
func checkPackage(g graph, r rule, from string) []violation {
	var found []violation
	seen := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		at := g[chain[len(chain)-1]]
		imports := at.Imports
		if r.tests && len(chain) == 1 {
			imports = slices.Concat(imports, at.TestImports)
		}
		for _, to := range imports {
			if seen[to] {
				continue
			}
			seen[to] = true
			next := append(slices.Clone(chain), to)
			switch {
			case r.forbids(from, to):
				found = append(found, violation{rule: r.name, chain: next})
			case r.transitive:
				queue = append(queue, next)
			}
		}
	}
	return found
}

// checkNames returns the paths whose package, or any folder above it, has a vague name.
func checkNames(g graph) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(g)) {
		if !ours(path) {
			continue
		}
		words := append(strings.Split(path, "/"), g[path].Name)
		if slices.ContainsFunc(words, func(word string) bool { return slices.Contains(vagueNames, word) }) {
			found = append(found, path)
		}
	}
	return found
}

// ours is true of the module's packages.
func ours(path string) bool {
	return path == "." || strings.HasPrefix(path, "./")
}

// standard is true of the standard library's packages: the paths of all others begin with a domain.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !ours(path) && !strings.Contains(first, ".")
}

func is(path string) func(string) bool {
	return func(other string) bool { return other == path }
}

// under is true of a package and of all below it.
func under(path string) func(string) bool {
	return func(other string) bool { return other == path || strings.HasPrefix(other, path+"/") }
}
