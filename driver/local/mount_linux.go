package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// The launcher has let go of the host's files when it is known what is to be mounted, and what this program has open is of no use: the
// kernel binds only what is of the caller's own mount namespace. So a short-lived process, the fetcher, takes copies of mounts, as
// the launcher would at its start, and hands them over detached from everything (fetch_linux.go). The launcher attaches each
// below mountsFolder, where the sandbox root does not reach, and process 1 of a sandbox binds from there those that are its own.

// mounts are what the session's sandboxes have been shown of the host.
type mounts struct {
	mu      sync.Mutex // held while the fetcher runs
	numbers map[mountKey]int
}

// mountKey tells mounts apart. The file stays the same one while it is mounted: its number can't be given to another.
type mountKey struct {
	source   string
	file     fileID
	writable bool
}

type fileID struct{ Device, Inode uint64 }

// fetch has the launcher attach what it does not have yet.
func (s *session) fetch(ctx context.Context, asked []driver.Mount) ([]control.Placed, error) {
	if err := driver.CheckMounts(driverName, asked); err != nil || len(asked) == 0 {
		return nil, err
	}
	s.mounts.mu.Lock()
	defer s.mounts.mu.Unlock()
	var fetcher *fetcher
	defer func() {
		if fetcher != nil {
			fetcher.end()
		}
	}()
	var all []control.Placed
	for _, m := range asked {
		refuse := func(err error) ([]control.Placed, error) {
			return nil, &driver.MountError{Driver: driverName, Mount: m, Err: err, Remedies: mountRemedies(err)}
		}
		if s.gvisor && m.Writable {
			return refuse(errGVisor)
		}
		info, err := os.Stat(m.Source)
		if err != nil {
			return refuse(err)
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			return refuse(errKind)
		}
		file, err := identify(info)
		if err != nil {
			return refuse(err)
		}
		key := mountKey{m.Source, file, m.Writable}
		number, known := s.mounts.numbers[key]
		if !known {
			if fetcher == nil {
				if fetcher, err = s.startFetcher(ctx); err != nil {
					return refuse(err)
				}
			}
			number = len(s.mounts.numbers) + 1
			if err := fetcher.pass(s.control, number, m, file); err != nil {
				return refuse(cmp.Or(ctx.Err(), err))
			}
			s.mounts.numbers[key] = number
		}
		all = append(all, control.Placed{Number: number, Target: m.Target, Folder: info.IsDir(), Writable: m.Writable})
	}
	return all, nil
}

var (
	errKind     = errors.New("it is neither a folder nor a regular file")
	errReplaced = errors.New("it was replaced at this moment")
	errReadOnly = errors.New("it is on a file system that is read-only here")
	errGVisor   = errors.New("gVisor would give new files to a user that its process does not have on this machine, and fails")
)

func mountRemedies(err error) []string {
	switch remedy := driver.ShortageRemedy(err); {
	case remedy != "":
		return []string{remedy}
	case errors.Is(err, os.ErrNotExist):
		return []string{"make it first"}
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		return []string{"name a file or folder that is there"}
	case errors.Is(err, os.ErrPermission):
		return []string{"let this program's user read it"}
	case errors.Is(err, errKind):
		return []string{"mount the folder that it is in"}
	case errors.Is(err, errReplaced):
		return []string{"try again"}
	case errors.Is(err, errGVisor):
		return []string{"mount it for reading, with sbx.Mount", "use the driver without gVisor"}
	case errors.Is(err, errReadOnly):
		return []string{"mount it for reading, with sbx.Mount"}
	}
	return nil
}

func identify(info os.FileInfo) (fileID, error) {
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, fmt.Errorf("the system says nothing of which file it is: %T", info.Sys())
	}
	return fileID{status.Dev, status.Ino}, nil
}

// A fetcher's process can mount, as the launcher at its start can.
type fetcher struct {
	cmd     *exec.Cmd
	control *os.File
	stderr  *tail
	stop    func() bool // of what kills it when its context ends
}

func (s *session) startFetcher(ctx context.Context) (*fetcher, error) {
	attributes, _, err := launcherAttributes()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := control.SocketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	f := &fetcher{stderr: &tail{}}
	if f.control, err = control.Conn(ours); err != nil {
		return nil, err
	}
	attributes.Setsid = true
	f.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"sbx-fetcher", s.id}, Env: []string{setup.RoleVariable + "=" + roleFetcher}, Dir: "/",
		Stderr: f.stderr, ExtraFiles: []*os.File{theirs}, SysProcAttr: attributes,
	}
	if err := f.cmd.Start(); err != nil {
		_ = f.control.Close()
		return nil, &SetupError{Step: "start a process that mounts", Err: err}
	}
	f.stop = context.AfterFunc(ctx, func() { _ = f.cmd.Process.Kill() })
	return f, nil
}

func (f *fetcher) end() {
	f.stop()
	_ = f.control.Close()
	_ = f.cmd.Process.Kill() // it has nothing left to do
	_ = f.cmd.Wait()
}

// pass has a mount taken and passes it on to the launcher.
func (f *fetcher) pass(launcher *os.File, number int, m driver.Mount, file fileID) error {
	if err := control.Send(f.control, fetchRequest{Source: []byte(m.Source), File: file, Writable: m.Writable}); err != nil {
		return err
	}
	var e control.Event
	files, err := control.Receive(f.control, &e, control.MaxEvent)
	defer control.CloseAll(files)
	switch {
	case err != nil:
		return fmt.Errorf("the process that mounts has ended: %w%s", err, f.stderr)
	case e.Kind == control.EventFailed:
		return fetchError(e)
	case len(files) != 1:
		return syscall.EMFILE // this process has no more
	}
	return control.Send(launcher, request{Op: opMount, Mounts: []control.Placed{{Number: number}}}, files[0])
}

// fetchError is the failure that a fetcher reports.
func fetchError(e control.Event) error {
	for _, known := range []error{errKind, errReplaced, errReadOnly} {
		if e.Text == known.Error() {
			return known
		}
	}
	if e.Errno != 0 {
		return fmt.Errorf("%s: %w", e.Step, e.Err())
	}
	return e.Err()
}

// attach takes a detached mount into the launcher's folder of mounts. What goes wrong is the error of each start that needs the mount.
func (l *launcher) attach(r request, files []int) {
	defer control.CloseAll(files)
	if len(r.Mounts) != 1 {
		return
	}
	err := error(syscall.EMFILE) // this process has no more
	if len(files) == 1 {
		err = attach(files[0], setup.MountPath(r.Mounts[0].Number))
	}
	l.mu.Lock()
	l.mounts[r.Mounts[0].Number] = err
	l.mu.Unlock()
}

func attach(mount int, path string) error {
	var status unix.Stat_t
	if err := unix.Fstat(mount, &status); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := setup.MakePoint(path, status.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(mount, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// missing says what is wrong with the first of mounts that the launcher does not have.
func (l *launcher) missing(mounts []control.Placed) (target string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range mounts {
		if err, known := l.mounts[m.Number]; err != nil || !known {
			return m.Target, cmp.Or(err, error(syscall.ENOENT))
		}
	}
	return "", nil
}
