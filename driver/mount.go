package driver

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Mount shows a folder or a regular file of this machine in a sandbox.
type Mount struct {
	// Source is its absolute path on this machine. Where that is a link, what it leads to when the sandbox is made is shown.
	Source string
	// Target is its absolute path in the sandbox.
	Target string
	// Writable lets the sandbox change it, as far as the sandbox's user may.
	Writable bool
}

// Places of a sandbox, and of machines, that no mount may cover or show.
var (
	keptTargets   = []string{"/proc", "/dev", "/sys", "/.sbx", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}
	wholeTargets  = []string{"/", "/work", "/tmp"} // what is below may be covered
	hiddenSources = []string{"/proc", "/sys", "/dev"}
)

// What a target may have: less than the kernel's bounds for paths, since a sandbox's root has a path of its own while it is made.
const (
	maxTarget = 1024
	maxName   = 255
)

// isBelow tells whether a clean path is a folder or below it.
func isBelow(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, strings.TrimSuffix(folder, "/")+"/")
}

// Check says what is wrong with the mount as such, before anything is known of the machine.
func (m Mount) Check() error {
	kept := func(folder string) bool { return isBelow(m.Target, folder) }
	tooLong := func(name string) bool { return len(name) > maxName }
	switch {
	case strings.Contains(m.Source+m.Target, "\x00"):
		return errors.New("a path holds a NUL byte, which none can; leave it out")
	case !utf8.ValidString(m.Target):
		return fmt.Errorf("the target %q is not UTF-8; choose another, such as /data", m.Target)
	case len(m.Target) > maxTarget || slices.ContainsFunc(strings.Split(m.Target, "/"), tooLong):
		return fmt.Errorf("the target has %d bytes; choose one of at most %d, with names of at most %d, such as /data", len(m.Target), maxTarget, maxName)
	case !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target:
		return fmt.Errorf("the target %q is not a clean absolute path, such as /data", m.Target)
	case slices.ContainsFunc(keptTargets, kept) || slices.Contains(wholeTargets, m.Target):
		return fmt.Errorf("the target %s belongs to the sandbox itself; choose another, such as /data", m.Target)
	}
	return CheckSource(m.Source)
}

// CheckSource says whether a path is one that no sandbox may see. Drivers ask again when they have followed all links.
func CheckSource(source string) error {
	if !filepath.IsAbs(source) {
		return fmt.Errorf("the source %q is not an absolute path; make it one with filepath.Abs", source)
	}
	clean := filepath.Clean(source)
	if clean == filepath.Dir(clean) || slices.ContainsFunc(hiddenSources, func(folder string) bool { return isBelow(filepath.ToSlash(clean), folder) }) {
		return fmt.Errorf("the source %s would show the machine itself; choose a folder of data", source)
	}
	return nil
}

// Nests tells whether one of two mounts would be within the other, or in its place.
func (m Mount) Nests(other Mount) bool {
	return isBelow(m.Target, other.Target) || isBelow(other.Target, m.Target)
}

// CheckMounts returns a [*MountError] for the first of mounts that is wrong as such, or nests with another, or nil.
func CheckMounts(driver string, mounts []Mount) error {
	for i, m := range mounts {
		err := m.Check()
		for _, other := range mounts[:i] {
			if err == nil && m.Nests(other) {
				err = fmt.Errorf("the target is not apart from that of another mount, %s", other.Target)
			}
		}
		if err != nil {
			return &MountError{Driver: driver, Mount: m, Err: err}
		}
	}
	return nil
}

// MountError says that a driver can't mount something, and what would change that.
type MountError struct {
	// Driver is the driver's name.
	Driver string
	// Mount is what was asked for.
	Mount Mount
	// Err is what is missing, or what failed.
	Err error
	// Remedies are things that the user can do, each a whole phrase, the best first.
	Remedies []string
}

func (e *MountError) Error() string {
	return fmt.Sprintf("the %s driver can't mount %s at %s: %v%s", e.Driver, e.Mount.Source, e.Mount.Target, e.Err, toGoOn(e.Remedies))
}

func (e *MountError) Unwrap() error { return e.Err }

// NoMounts returns a [*MountError] for the first of mounts, or nil if there is none. It is for drivers that have no mounts, for the reason why.
func NoMounts(driver, why string, mounts []Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	return &MountError{Driver: driver, Mount: mounts[0], Err: errors.New(why), Remedies: []string{
		"use the local driver (the default) on Linux", "leave the mount out and use the path on this machine itself",
	}}
}
