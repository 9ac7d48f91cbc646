package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/internal/control"
	"github.com/sandboxfn/sbx/driver/local/internal/setup"
)

// A session is the client's side of one launcher. It runs two goroutines: one that reads the launcher's events, ended
// and waited for by Close, and os/exec's copying of the launcher's stderr, which ends before the first does.
type session struct {
	id       string
	launcher *exec.Cmd
	control  *os.File
	stderr   *tail
	logger   *slog.Logger
	report   driver.Report
	gvisor   bool
	mounts   mounts
	folder   *os.File      // the launcher's /temporary
	done     chan struct{} // closed when the launcher and all sandboxes are dead

	mu        sync.Mutex
	closed    bool
	cause     error // why the launcher is gone
	sandboxes map[string]*sandbox
}

// Open starts the launcher and waits until it has made a sandbox to try.
func (d localDriver) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	if d.scratchMiB < 0 {
		return nil, fmt.Errorf("local: Options.ScratchMiB is %d, want at least 0", d.scratchMiB)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	program, err := os.Open("/proc/self/exe")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unavailable(errNoProc)
	}
	if err != nil {
		return nil, fmt.Errorf("local: open this program to run it as launcher: %w; %s", err, cmp.Or(driver.ShortageRemedy(err), "its file must be readable for the user who runs it"))
	}
	defer program.Close()
	path, err := spec.Worker(ctx, driver.Host())
	if err != nil {
		return nil, err
	}
	worker, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("local: open the worker: %w", err)
	}
	defer worker.Close()
	if info, err := worker.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("local: worker %s is not a regular file", path)
	}

	var runsc string
	if d.gvisor {
		if runsc, err = findRunsc(); err != nil {
			return nil, unavailable(err)
		}
	}

	s := &session{id: spec.ID, gvisor: d.gvisor, stderr: &tail{}, logger: spec.Logger, done: make(chan struct{}), sandboxes: map[string]*sandbox{}, mounts: mounts{numbers: map[mountKey]int{}}}
	attributes, ownIDs, err := launcherAttributes()
	if err != nil {
		return nil, unavailable(err)
	}
	if err := s.startLauncher(attributes); err != nil {
		return nil, unavailable(&SetupError{Step: "start the launcher in new namespaces", Err: err})
	}
	stop := context.AfterFunc(ctx, func() { _ = s.launcher.Process.Kill() })
	ready, err := s.handshake(request{Op: opOpen, Session: s.id, Defaults: d.defaults(), Runsc: runsc, OwnIDs: ownIDs, HandedOver: handedOver(ctx)}, program, worker)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil || ready.Kind != control.EventReady {
		_ = s.control.Close()
		_ = s.folder.Close()
		_ = s.launcher.Process.Kill()
		waitErr := s.launcher.Wait()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, unavailable(&SetupError{Step: "start the launcher", Err: launcherDeath(err, waitErr, s.stderr)})
		}
		failed := setupError(ready)
		// The process that was tried may have said why, through the launcher.
		failed.Err = deathOf(failed.Err, "", s.stderr.String())
		return nil, unavailable(failed)
	}
	s.report = report(ready)
	if d.gvisor {
		s.report = gvisorReport(s.report)
	}
	go s.read()
	return s, nil
}

func (s *session) startLauncher(attributes *syscall.SysProcAttr) error {
	ours, theirs, err := control.SocketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	defer theirs.Close()
	if s.control, err = control.Conn(ours); err != nil {
		return err
	}
	s.launcher = &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{"sbx-launcher", s.id},
		Env:         []string{setup.RoleVariable + "=" + roleLauncher},
		Dir:         "/",
		Stderr:      s.stderr,
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: attributes,
	}
	// Signals from a terminal are the client's to handle. No signal kills it with its parent: that would follow the thread that runs this
	// goroutine, and leave control groups. The socket's end says the same, and this one lets a launcher see it that something has stopped.
	s.launcher.SysProcAttr.Pdeathsig = syscall.SIGCONT
	s.launcher.SysProcAttr.Setsid = true
	if err := s.launcher.Start(); err != nil {
		_ = s.control.Close()
		return err
	}
	return nil
}

// launcherDeath is why a launcher ended before it was ready.
func launcherDeath(err, waitErr error, stderr *tail) error {
	text := stderr.String()
	return deathOf(fmt.Errorf("%w (%w)%s", err, waitErr, text), fmt.Sprintf(" (%v)", waitErr), text)
}

// deathOf is why a process that ended in err did, by what Go's runtime or the system's loader wrote of it: nothing else says that it may have
// no more threads, or lacks a library.
func deathOf(err error, how, stderr string) error {
	if _, text, found := strings.Cut(stderr, "loading shared librar"); found {
		text, _, _ = strings.Cut(text, "\n")
		if _, library, found := strings.Cut(text, " "); found { // after "ies:", or "y" of musl
			return fmt.Errorf("%w%s: %s", errNoLibrary, how, library)
		}
	}
	switch {
	case strings.Contains(stderr, "out of memory"), strings.Contains(stderr, "cannot allocate memory"):
		return fmt.Errorf("%w%s: it may have no more memory", syscall.ENOMEM, how)
	case !strings.Contains(stderr, "runtime.newosproc") && !strings.Contains(stderr, "pthread_create failed"):
		return err
	case addressSpaceIsLimited(): // and a thread needs room for its stack
		return fmt.Errorf("%w%s: it may have no more memory for threads", syscall.ENOMEM, how)
	}
	return fmt.Errorf("%w%s: it may have no more threads", syscall.EAGAIN, how)
}

func addressSpaceIsLimited() bool {
	var limit unix.Rlimit
	return unix.Getrlimit(unix.RLIMIT_AS, &limit) == nil && limit.Cur != unix.RLIM_INFINITY
}

func (s *session) handshake(first request, program, worker *os.File) (control.Event, error) {
	var ready control.Event
	if err := control.Send(s.control, first, int(program.Fd()), int(worker.Fd())); err != nil {
		return ready, err
	}
	files, err := control.Receive(s.control, &ready, control.MaxEvent)
	if err == nil && ready.Kind == control.EventReady && len(files) != 1 {
		err = syscall.EMFILE // this process has no more
	}
	if err != nil || ready.Kind != control.EventReady {
		control.CloseAll(files)
		return ready, err
	}
	s.folder = os.NewFile(uintptr(files[0]), temporary)
	return ready, nil
}

// read passes the launcher's events on until the launcher is gone; then it makes sure that the sandboxes are, too.
func (s *session) read() {
	defer close(s.done)
	for {
		var e control.Event
		files, err := control.Receive(s.control, &e, control.MaxEvent)
		if err != nil {
			break
		}
		s.mu.Lock()
		b := s.sandboxes[e.Sandbox]
		s.mu.Unlock()
		switch {
		case b != nil && e.Kind == control.EventStarted:
			pidfd := -1 // without one, should this process be short of descriptors, it does as well while the launcher lives
			if len(files) == 1 {
				pidfd, files = files[0], nil
			}
			for limit, why := range e.Unheld {
				s.logger.Warn("a sandbox goes without a limit", slog.String("sandbox", e.Sandbox), slog.String("limit", limit), slog.String("reason", why))
			}
			b.setStarted(pidfd)
		case b != nil && e.Kind == control.EventEnded:
			s.forget(b)
			b.setEnded(e, nil)
		}
		control.CloseAll(files)
	}
	_ = s.control.Close()
	_ = s.folder.Close()
	_ = s.launcher.Process.Kill() // if it ended the conversation but lives
	err := s.launcher.Wait()

	s.mu.Lock()
	closed, left := s.closed, s.sandboxes
	s.closed, s.sandboxes = true, nil
	s.mu.Unlock()
	cause := driver.ErrStopped
	if !closed {
		cause = &deadLauncher{fmt.Errorf("the local driver's launcher died: %w%s; open a new session", cmp.Or(err, errors.New("exit status 0")), s.stderr)}
	}
	s.mu.Lock()
	s.cause = cause
	s.mu.Unlock()
	for _, b := range left {
		b.awaitDeath()
		b.setEnded(control.Event{}, cause)
	}
}

// deadLauncher is why all sandboxes of a session are lost, and there can be no others.
type deadLauncher struct{ error }

func (e *deadLauncher) Unwrap() error { return e.error }

// SessionIsOver has package sbx advise nothing that needs another sandbox of the session.
func (*deadLauncher) SessionIsOver() {}

func (s *session) forget(b *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sandboxes, b.spec.ID)
}

// Create reserves the sandbox's id. All else happens when the worker starts: process 1 makes its namespaces and starts
// the worker in one go.
func (s *session) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := packEnv(spec.Env); err != nil {
		return nil, fmt.Errorf("local: create sandbox %s: %w", spec.ID, err)
	}
	if err := s.report.Check(spec.Limits); err != nil {
		return nil, fmt.Errorf("local: create sandbox %s: %w", spec.ID, err)
	}
	for _, limit := range spec.Soft.Names() {
		if !s.report.Capability(limit).Held {
			spec.Soft = spec.Soft.Without(limit)
		}
	}
	if err := driver.NoImages(driverName, "its sandboxes have this machine's /usr", spec.Image); err != nil {
		return nil, fmt.Errorf("local: create sandbox %s: %w", spec.ID, err)
	}
	if err := s.refusal(spec.ID); err != nil {
		return nil, err
	}
	mounts, err := s.fetch(ctx, spec.Mounts)
	if err != nil {
		return nil, fmt.Errorf("local: create sandbox %s: %w", spec.ID, err)
	}
	b := &sandbox{session: s, spec: spec, mounts: mounts, started: make(chan struct{}), ended: make(chan struct{}), pidfd: -1}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusalLocked(spec.ID); err != nil {
		return nil, err
	}
	s.sandboxes[spec.ID] = b
	return b, nil
}

// refusal says why there can be no sandbox of that id, or none any more.
func (s *session) refusal(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusalLocked(id)
}

func (s *session) refusalLocked(id string) error {
	switch {
	case s.cause != nil && !errors.Is(s.cause, driver.ErrStopped):
		return fmt.Errorf("local: create sandbox %s: %w", id, s.cause)
	case s.closed:
		return fmt.Errorf("local: create sandbox %s: session is %w", id, driver.ErrStopped)
	case id == "":
		return errors.New("local: create sandbox: it has no id")
	case s.sandboxes[id] != nil:
		return fmt.Errorf("local: create sandbox %s: the id is taken", id)
	}
	return nil
}

// Report is as it was when the session was opened.
func (s *session) Report() driver.Report { return s.report }

// Close ends the conversation, upon which the launcher kills everything and exits.
func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, b := range s.sandboxes {
		b.mu.Lock()
		b.killed = true
		b.mu.Unlock()
	}
	s.mu.Unlock()
	_ = control.CloseWrite(s.control) // again: no harm
	s.wakeLauncher()
	select {
	case <-s.done:
		return nil
	case <-time.After(exitGrace):
	case <-ctx.Done():
	}
	// The launcher does not do what it is there for. With it the kernel kills all sandboxes.
	_ = s.launcher.Process.Kill()
	select {
	case <-s.done:
		return nil
	case <-time.After(killGrace):
		return fmt.Errorf("local: close session: the launcher, process %d, or a sandbox does not end %v after it was killed: %w",
			s.launcher.Process.Pid, killGrace, cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
}

// wakeLauncher continues a launcher that something has stopped, so that it can end what is to end.
func (s *session) wakeLauncher() { _ = s.launcher.Process.Signal(syscall.SIGCONT) }

// tail keeps the beginning and the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	head []byte // where a Go program that dies says why
	data []byte // behind that
}

const headLength, tailLength = 1 << 10, 4 << 10

// sanitizerWarning is what each process 1 of a program begins with that was built with -race or -asan: it has no /proc yet.
const sanitizerWarning = "WARNING: reading executable name failed"

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(p) {
		if bytes.Contains(line, []byte(sanitizerWarning)) {
			continue
		}
		first := min(len(line), headLength-len(t.head))
		t.head = append(t.head, line[:first]...)
		t.data = append(t.data, line[first:]...)
		if extra := len(t.data) - tailLength; extra > 0 {
			t.data = append(t.data[:0], t.data[extra:]...)
		}
	}
	return len(p), nil
}

// String is empty, or ": " and what was written first and last.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.head) == 0 {
		return ""
	}
	gap := ""
	if len(t.data) == tailLength {
		gap = "\n...\n"
	}
	return ": " + string(t.head) + gap + string(t.data)
}
