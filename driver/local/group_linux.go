package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/internal/oom"
)

// A sandbox whose memory or processor time is limited has a cgroup of its own, PLACE/sbx-SESSION-RANDOM/SANDBOX, in the
// hierarchy of each limit. The launcher looks for the places before it lets go of the host's files, and keeps the folders open: no
// sandbox ever sees them. It makes the session's folder with the first sandbox that needs it, each sandbox's with the sandbox,
// and removes them with these. It holds a lock on the session's folder, which the kernel frees when the launcher dies: what a launcher that
// was killed left behind, the next one with the same place removes.

// groupPrefix begins the names of sessions' folders.
const groupPrefix = "sbx-"

// groups makes the cgroups of a session's sandboxes. It is used on the launcher's main thread.
type groups struct {
	places  []*place
	refused map[string]control.Refusal // by the name of a limit
}

// A place is a folder of one hierarchy in which sessions make theirs.
type place struct {
	placement
	folder  *os.File
	session *os.File // nil until it is needed
}

// A group is one sandbox's, in each of the hierarchies that it is limited in.
type group struct {
	sandbox string
	places  []*place
	limits  []string // that it is for
	// folder is the one in a hierarchy of version 2, in which a process can be born; nil if there is none.
	folder *os.File
}

// findGroups opens the places. None is no error, but the limits that need one are refused then.
func findGroups(handedOver bool) *groups {
	placements, refused := findPlaces(handedOver)
	g := &groups{refused: refused}
	for _, p := range placements {
		folder, err := os.Open(p.path)
		if err != nil {
			for _, limit := range p.limits {
				refused[limit] = refuse(err)
			}
			continue
		}
		g.places = append(g.places, &place{placement: p, folder: folder})
	}
	return g
}

// mechanisms names, for each limit that can be held, what holds it.
func (g *groups) mechanisms() map[string]string {
	by := map[string]string{}
	for _, p := range g.places {
		for _, limit := range p.limits {
			by[limit] = fmt.Sprintf("a cgroup of version %d, with its %s controller", p.version, controllers[limit])
		}
	}
	return by
}

// make makes a sandbox's group for those limits in r that need one. The group is nil if none does. failed are the limits that could not
// be set, by name.
func (g *groups) make(session, sandbox string, r driver.Resources) (made *group, failed map[string]error) {
	failed = map[string]error{}
	for _, p := range g.places {
		var limits []string
		for _, name := range r.Names() {
			if slices.Contains(p.limits, name) {
				limits = append(limits, name)
			}
		}
		if len(limits) == 0 {
			continue
		}
		if made == nil {
			made = &group{sandbox: sandbox}
		}
		made.limits = append(made.limits, limits...)
		if err := p.make(session, sandbox, limits, r); err != nil {
			for _, name := range limits {
				failed[name] = err
			}
			continue
		}
		made.places = append(made.places, p)
		if p.version == 2 {
			folder, err := os.Open(inside(p.session, sandbox))
			if err != nil {
				for _, name := range limits {
					failed[name] = err
				}
			}
			made.folder = folder
		}
	}
	return made, failed
}

// close removes the session's folders. No sandbox is left.
func (g *groups) close() {
	for _, p := range g.places {
		if p.session != nil {
			_ = removeGroup(inside(p.folder, filepath.Base(p.session.Name())))
		}
	}
}

// make makes a sandbox's folder with limits.
func (p *place) make(session, sandbox string, limits []string, r driver.Resources) error {
	if p.session == nil {
		if err := p.open(session); err != nil {
			return err
		}
	}
	path := inside(p.session, sandbox)
	if err := os.Mkdir(path, 0o755); err != nil {
		return fmt.Errorf("make a cgroup: %w", cause(err))
	}
	for _, limit := range limits {
		for _, s := range settings(p.version, limit, r) {
			err := writeGroup(filepath.Join(path, s.file), s.value)
			if err != nil && (!s.optional || !errors.Is(err, fs.ErrNotExist)) {
				_ = removeGroup(path)
				return err
			}
		}
	}
	return nil
}

// open makes the session's folder.
func (p *place) open(session string) error {
	if p.version == 2 {
		if err := p.passOn(); err != nil {
			return err
		}
	}
	here := inside(p.folder)
	p.sweep()
	for range 3 {
		path, err := os.MkdirTemp(here, groupPrefix+session+"-*")
		if err != nil {
			return fmt.Errorf("make the session's cgroup: %w", cause(err))
		}
		folder, err := os.Open(path)
		if err != nil {
			continue // another launcher took it for one that was left behind
		}
		if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
			_ = folder.Close()
			return os.NewSyscallError("flock", err)
		}
		if _, err := os.Stat(path); err != nil {
			_ = folder.Close()
			continue
		}
		if p.version == 2 {
			if err := writeGroup(filepath.Join(path, "cgroup.subtree_control"), p.enable()); err != nil {
				_ = removeGroup(path)
				_ = folder.Close()
				return err
			}
		}
		p.session = folder
		return nil
	}
	return errors.New("make the session's cgroup: something removes it")
}

// sweep removes what launchers left here that were killed.
func (p *place) sweep() {
	entries, err := os.ReadDir(inside(p.folder))
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), groupPrefix) || entry.Name() == programGroup {
			continue
		}
		path := inside(p.folder, entry.Name())
		folder, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = removeGroup(path)
		}
		_ = folder.Close()
	}
}

// enable is what cgroup.subtree_control takes to pass on the controllers of the place's limits.
func (p *place) enable() string {
	var words []string
	for _, limit := range p.limits {
		words = append(words, "+"+controllers[limit])
	}
	return strings.Join(words, " ")
}

// passOn has the place pass on its controllers. A group of version 2 does so only if no process is in it (the root of the hierarchy excepted),
// so if the program is, it and what it has started move to a group beside the session's.
func (p *place) passOn() error {
	here := inside(p.folder)
	err := writeGroup(filepath.Join(here, "cgroup.subtree_control"), p.enable())
	if err == nil || !p.moves || !errors.Is(err, unix.EBUSY) {
		return err
	}
	program := filepath.Join(here, programGroup)
	if err := os.Mkdir(program, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup for the program: %w", cause(err))
	}
	// Processes start others meanwhile, which begin in the group of their parent.
	for range 100 {
		processes, err := os.ReadFile(filepath.Join(here, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, pid := range strings.Fields(string(processes)) {
			if err := writeGroup(filepath.Join(program, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if err = writeGroup(filepath.Join(here, "cgroup.subtree_control"), p.enable()); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return errors.New("move the program to a cgroup below its own: processes keep coming")
}

// A setting is one file of a group; an optional one is not there in every kernel, and not missed there.
type setting struct {
	file, value string
	optional    bool
}

// period is the time over which processor time is counted, in microseconds.
const period = 100_000

// settings are what holds a limit in a hierarchy of a version. Memory is to be had from RAM alone: swap space would add to it.
func settings(version int, limit string, r driver.Resources) []setting {
	memory, quota := strconv.Itoa(r.MemoryMiB<<20), strconv.Itoa(int(r.CPUs*period))
	switch {
	case limit == driver.LimitMemory && version == 1:
		return []setting{{"memory.limit_in_bytes", memory, false}, {"memory.memsw.limit_in_bytes", memory, true}, {"memory.swappiness", "0", true}}
	case limit == driver.LimitMemory:
		return []setting{{"memory.max", memory, false}, {"memory.swap.max", "0", true}}
	case version == 1:
		return []setting{{"cpu.cfs_period_us", strconv.Itoa(period), false}, {"cpu.cfs_quota_us", quota, false}}
	}
	return []setting{{"cpu.max", quota + " " + strconv.Itoa(period), false}}
}

// join puts a process into the group where it was not born there.
func (g *group) join(pid int) error {
	if g == nil {
		return nil
	}
	for _, p := range g.places {
		if p.version == 1 {
			if err := writeGroup(inside(p.session, g.sandbox, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// outOfMemory tells whether the kernel has killed a process of the group because the group's memory was used up. It does not
// know if the group's memory is not limited.
func (g *group) outOfMemory() (killed, known bool) {
	if g == nil {
		return false, false
	}
	for _, p := range g.places {
		file := "memory.events"
		if p.version == 1 {
			file = "memory.oom_control"
		}
		if n, ok := oom.Count(inside(p.session, g.sandbox, file)); ok {
			return n > 0, true
		}
	}
	return false, false
}

// remove removes the group when all of its processes are dead.
func (g *group) remove() {
	if g == nil {
		return
	}
	if g.folder != nil {
		_ = g.folder.Close()
	}
	for _, p := range g.places {
		_ = removeGroup(inside(p.session, g.sandbox)) // close tries again
	}
}

// inside is a path to what is in an open folder, wherever its file system is mounted, and if it is mounted nowhere any more.
func inside(folder *os.File, names ...string) string {
	return filepath.Join(append([]string{"/proc/self/fd", strconv.Itoa(int(folder.Fd()))}, names...)...)
}

// writeGroup writes to a file of a group.
func writeGroup(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(value)
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		return fmt.Errorf("write %q to %s of a cgroup: %w", value, filepath.Base(path), cause(err))
	}
	return nil
}

// removeGroup removes a group and those below it. The kernel may need a moment until it knows that the last process is dead.
func removeGroup(path string) error {
	entries, _ := os.ReadDir(path)
	for _, entry := range entries {
		if entry.IsDir() {
			_ = removeGroup(filepath.Join(path, entry.Name()))
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(path)
		if err == nil || err == unix.ENOENT || err != unix.EBUSY || wait > time.Second {
			return err
		}
		time.Sleep(wait)
	}
}

// cause is an error without the path, which is one of /proc/self/fd.
func cause(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}
