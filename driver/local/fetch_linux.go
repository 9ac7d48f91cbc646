package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// fetchRequest goes to the fetcher, which answers with an event and, if that is eventFetched, with the mount's descriptor.
type fetchRequest struct {
	Source   []byte `json:"source"` // which need not be UTF-8, as a JSON string must
	File     fileID `json:"file"`
	Writable bool   `json:"writable,omitempty"`
}

const eventFetched = "fetched"

// runFetcher takes mounts for the client until the client has no more requests. It has mounts of its own, a copy of the program's.
func runFetcher() error {
	if err := control.CloseOnExec(); err != nil {
		return err
	}
	conn, err := control.Conn(os.NewFile(control.FD, "control"))
	if err != nil {
		return err
	}
	// What the host mounts or unmounts from now on changes nothing here, between a look and a copy either.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for {
		var r fetchRequest
		files, err := control.Receive(conn, &r, control.MaxMessage)
		control.CloseAll(files)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		mount, step, err := copyMount(r)
		if err != nil {
			err = control.Send(conn, control.Failure("", step, err))
		} else {
			err = control.Send(conn, control.Event{Kind: eventFetched}, mount)
			_ = unix.Close(mount)
		}
		if err != nil {
			return err
		}
	}
}

// copyMount returns a detached copy of what is mounted at and below the request's source, that can do no more than it has to.
func copyMount(r fetchRequest) (mount int, step string, err error) {
	name := string(r.Source)
	source, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "open " + name, err
	}
	defer unix.Close(source)
	var status unix.Stat_t
	if err := unix.Fstat(source, &status); err != nil {
		return -1, "look at " + name, err
	}
	if r.File != (fileID{status.Dev, status.Ino}) {
		return -1, "open " + name, errReplaced
	}
	if kind := status.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return -1, "open " + name, errKind
	}
	// The path without links.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", source))
	if err == nil {
		err = driver.CheckSource(path)
	}
	if err == nil {
		err = showsNoSystem(source, path)
	}
	if err != nil {
		return -1, "look at " + name, err
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(source, &system); err != nil {
		return -1, "look at " + name, err
	}
	if r.Writable && system.Flags&unix.ST_RDONLY != 0 {
		return -1, "look at " + name, errReadOnly
	}
	// Recursively: without what is mounted below, the kernel gives no copy to those who could look beneath so.
	mount, err = unix.OpenTree(source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return -1, "copy the mount of " + name, err
	}
	err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: setup.ReadOnly, Propagation: unix.MS_PRIVATE})
	if err == nil && r.Writable {
		err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		_ = unix.Close(mount)
		return -1, "restrict the mount of " + name, err
	}
	return mount, "", nil
}

// systems are file systems that show the machine or its kernel, wherever they are mounted.
var systems = []string{
	"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "selinuxfs", "smackfs", "debugfs", "tracefs", "bpf", "pstore", "efivarfs",
	"configfs", "mqueue", "binfmt_misc", "nsfs", "fusectl", "hugetlbfs", "rpc_pipefs", "nfsd", "resctrl", "xenfs",
}

// showsNoSystem fails if one of those file systems is at a path, which is open, or below.
func showsNoSystem(source int, path string) error {
	about, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", source))
	if err != nil {
		return err
	}
	_, id, _ := strings.Cut(string(about), "mnt_id:")
	id = strings.TrimSpace(strings.SplitN(id, "\n", 2)[0])
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	found := false
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, system := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(system) == 0 {
			return fmt.Errorf("the kernel's list of mounts has the line %q", line)
		}
		point, err := unescape(fields[4])
		if err != nil {
			return err
		}
		own := fields[0] == id
		found = found || own
		if (own || strings.HasPrefix(point, path+"/")) && slices.Contains(systems, system[0]) {
			return fmt.Errorf("it would show the machine itself: %s is a file system of type %s; choose a folder of data", point, system[0])
		}
	}
	if !found {
		return errors.New("the kernel's list of mounts does not have it")
	}
	return nil
}

// unescape decodes a path of mountinfo, in which some bytes are a backslash and three octal digits.
func unescape(path string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '\\' || i+3 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		value, err := strconv.ParseUint(path[i+1:i+4], 8, 8)
		if err != nil {
			return "", fmt.Errorf("the kernel's list of mounts has the path %q", path)
		}
		b.WriteByte(byte(value))
		i += 3
	}
	return b.String(), nil
}
