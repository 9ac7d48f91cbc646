package sbx

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/sandboxfn/sbx/driver"
)

// Mount shows a folder or a regular file of this machine in the sandbox, for reading. Source is its absolute path here; if it is a link,
// what that leads to is shown. Target is a clean absolute path in the sandbox, where folders are made as needed: "/data", "/etc/app.conf",
// "/work/input". It may cover nothing that the sandbox itself is made of (/usr, /bin, /sbin, /lib and the like, /dev, /proc, /sys, /.sbx, all of
// /work or all of /tmp), and no target may be within another. Source may not be the root, nor in /proc, /sys or /dev.
//
// What is mounted below source is shown, too, for reading. Programs there don't run with another user's rights (nosuid), and there are no
// devices. A mount with the same target replaces this one. Functions with other mounts run in other sandboxes. Where the driver has no
// mounts, or source is not there or of another kind, calls fail with a [*driver.MountError].
func Mount(source, target string) SandboxOption {
	return mountOption("Mount", driver.Mount{Source: source, Target: target})
}

// MountWritable is [Mount] for a folder or file that the sandbox may change, if the sandbox's user may. What is mounted below a folder can be
// read only. A file that is mounted by itself can't be replaced, as [Sandbox.WriteFile] and [Sandbox.CopyTo] do, but written to: by [Sandbox.OpenFile], or a
// command.
//
// With the local driver that user is the program's, or, if that is root, one that owns nothing on this machine: it can change what
// everybody can. Package driver/local says more.
func MountWritable(source, target string) SandboxOption {
	return mountOption("MountWritable", driver.Mount{Source: source, Target: target, Writable: true})
}

func mountOption(name string, m driver.Mount) SandboxOption {
	return sandboxOption(func(s *spec) error {
		if err := m.Check(); err != nil {
			return &OptionError{Option: name, Reason: fmt.Sprintf("of %q at %q: %v", m.Source, m.Target, err)}
		}
		m.Source = filepath.Clean(m.Source)
		for target, other := range s.mounts {
			if target != m.Target && m.Nests(other) {
				return &OptionError{Option: name, Reason: fmt.Sprintf("of %q at %q is not apart from the mount at %q; choose another target", m.Source, m.Target, target)}
			}
		}
		if s.mounts == nil {
			s.mounts = map[string]driver.Mount{}
		}
		s.mounts[m.Target] = m
		return nil
	})
}

// mountParts are two for each mount, as a class has them.
func (s spec) mountParts() []string {
	var parts []string
	for _, target := range slices.Sorted(maps.Keys(s.mounts)) {
		mode := "r"
		if s.mounts[target].Writable {
			mode = "w"
		}
		parts = append(parts, target, mode+s.mounts[target].Source)
	}
	return parts
}

// parseMounts is the opposite of mountParts.
func parseMounts(parts []string) []driver.Mount {
	var mounts []driver.Mount
	for pair := range slices.Chunk(parts, 2) {
		mounts = append(mounts, driver.Mount{Target: pair[0], Source: pair[1][1:], Writable: pair[1][0] == 'w'})
	}
	return mounts
}
