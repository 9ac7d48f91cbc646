package driver

import (
	"errors"
	"fmt"
	"strings"
)

// Isolation is how far the code in a sandbox is from the host. Higher levels are stronger.
type Isolation int

const (
	// NoIsolation is a program without a sandbox: the code can do what the program can.
	NoIsolation Isolation = iota
	// SharedKernel is a sandbox on the host's kernel, which keeps the code apart and serves its system calls.
	SharedKernel
	// OwnKernel is a sandbox with a kernel of its own in a process of the host's, which serves the code's system calls.
	OwnKernel
	// Machine is a virtual machine, or a machine of the sandbox's own.
	Machine
)

var isolations = [...]string{"no isolation", "shared kernel", "own kernel", "machine"}

// String is "shared kernel".
func (i Isolation) String() string {
	if i < 0 || int(i) >= len(isolations) {
		return fmt.Sprintf("Isolation(%d)", int(i))
	}
	return isolations[i]
}

// A Report says what a session's sandboxes hold on this machine, what they don't, and why.
type Report struct {
	// Driver is the driver's name.
	Driver string
	// Isolation is the level of all of the session's sandboxes.
	Isolation Isolation
	// Capabilities are what a sandbox can be asked to hold, or is expected to. Each limit of [Resources] is among them by its
	// name; the others' names are the driver's.
	Capabilities []Capability
}

// A Capability is one thing that is held, or not.
type Capability struct {
	// Name names what is held: "memory", "network".
	Name string
	// Held says that it is held in every sandbox of the session; for a limit, that it will be in each that asks for it.
	Held bool
	// By names the mechanism; empty if it is not held.
	By string
	// Why says why it is not held; empty if it is.
	Why string
	// Remedies are things that the user can do, as those of a [LimitError].
	Remedies []string
}

// Unheld returns the report of a driver that isolates nothing and holds no limit.
func Unheld(driver, why string, remedies ...string) Report {
	r := Report{Driver: driver, Isolation: NoIsolation}
	for _, name := range LimitNames() {
		r.Capabilities = append(r.Capabilities, Capability{Name: name, Why: why, Remedies: remedies})
	}
	return r
}

// Capability returns the capability with a name; if the report has none, one that is not held.
func (r Report) Capability(name string) Capability {
	for _, c := range r.Capabilities {
		if c.Name == name {
			return c
		}
	}
	return Capability{Name: name, Why: "it is not known here"}
}

// Check returns a [*LimitError] for the first of limits that is not held, or nil.
func (r Report) Check(limits Resources) error {
	for _, name := range limits.Names() {
		if c := r.Capability(name); !c.Held {
			return NewLimitError(r.Driver, name, errors.New(c.Why), c.Remedies...)
		}
	}
	return nil
}

// String is the level and one line for each capability.
func (r Report) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "driver %s: %s\n", r.Driver, r.Isolation)
	for _, c := range r.Capabilities {
		if c.Held {
			fmt.Fprintf(&text, "%s: held by %s\n", c.Name, c.By)
		} else {
			fmt.Fprintf(&text, "%s: not held: %s%s\n", c.Name, c.Why, toGoOn(c.Remedies))
		}
	}
	return text.String()
}

// toGoOn lists remedies at the end of an error.
func toGoOn(remedies []string) string {
	if len(remedies) == 0 {
		return ""
	}
	return "; to go on, " + strings.Join(remedies, ", or ")
}
