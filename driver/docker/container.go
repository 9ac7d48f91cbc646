//go:build !sbxworker

package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
)

// sigkill is that of Linux, whatever system this program is of.
const sigkill = syscall.Signal(9)

const (
	mebi = 1 << 20
	// quotaPeriod is the engine's own, and leastQuota the least that the kernel takes, in microseconds.
	quotaPeriod = 100_000
	leastQuota  = 1000
	// The most of /dev/shm, where DiskMiB and Inodes don't say less.
	memoryFolderMiB, memoryFolderInodes = 64, 1 << 10
)

// limits are what holds for a sandbox: what must be held, what can be of the rest, and the defaults.
func (s *session) limits(spec driver.Spec) driver.Resources {
	var cannot []string
	for _, name := range driver.LimitNames() {
		if !s.report.Capability(name).Held {
			cannot = append(cannot, name)
		}
	}
	return spec.Limits.Or(spec.Soft).Or(s.driver.defaults()).Without(cannot...)
}

// goLimits tells the Go runtime how much memory there is, unless env does. Where processor time is limited, it sees that by itself.
func goLimits(env []string, r driver.Resources) []string {
	if r.MemoryMiB > 0 && !slices.ContainsFunc(env, func(entry string) bool { return strings.HasPrefix(entry, "GOMEMLIMIT=") }) {
		// The garbage collector works harder near its limit; what is not Go's heap needs the rest.
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%dKiB", r.MemoryMiB*1024/10*9))
	}
	return env
}

// container describes a sandbox to the engine. What is secret is not in it: the agent gets the environment when it starts the worker.
func (s *session) container(b *sandbox, worker string, mounts []driver.Mount, volumes []string, socket *socket) client.ContainerCreateOptions {
	limits := s.limits(b.spec)
	labels := s.labels()
	labels[labelSandbox] = b.spec.ID
	for _, tag := range b.spec.Tags {
		labels[labelTag+tag] = ""
	}
	boot := agent.Boot{Token: b.token, Lifetime: s.driver.Lifetime}
	shown := []mount.Mount{{Type: mount.TypeVolume, Source: s.stage.volume, Target: workerFolder, ReadOnly: true, VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: workerLabels()}}}
	if socket != nil {
		boot.Socket = socketFolder + "/" + socketName
		shown = append(shown, mount.Mount{Type: mount.TypeBind, Source: socket.folder, Target: socketFolder, ReadOnly: true})
	}
	for _, m := range mounts {
		// What is mounted below a read-only folder could be written to otherwise: older engines restrict the upmost mount only.
		shown = append(shown, mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: !m.Writable, BindOptions: &mount.BindOptions{NonRecursive: !m.Writable}})
	}
	return client.ContainerCreateOptions{
		Config: &container.Config{
			Image: b.spec.Image, Entrypoint: []string{worker}, Env: []string{agent.Variable + "=" + boot.Encode()},
			User: s.driver.User, WorkingDir: workFolder, Hostname: "sandbox", Labels: labels,
			AttachStdin: true, AttachStdout: true, AttachStderr: true, OpenStdin: true, StdinOnce: true,
			Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
			StopSignal:  "SIGKILL", // so that nobody who stops the engine waits
		},
		HostConfig: &container.HostConfig{
			AutoRemove:     true,
			CapDrop:        []string{"ALL"},
			IpcMode:        container.IPCModeNone, // with /dev/shm from us
			LogConfig:      container.LogConfig{Type: "none"},
			Mounts:         shown,
			NetworkMode:    container.NetworkMode(s.driver.Network),
			ReadonlyRootfs: true,
			Runtime:        s.driver.Runtime,
			SecurityOpt:    []string{"no-new-privileges"},
			Tmpfs:          s.folders(limits, mounts, volumes),
			Resources:      resources(limits),
			Init:           new(bool), // the agent is the first process, and reaps
		},
	}
}

// folders are those that sandboxes can write to.
func (s *session) folders(limits driver.Resources, mounts []driver.Mount, volumes []string) map[string]string {
	const shared = "mode=1777"
	scratch := func(access string, mib, inodes int) string {
		options := fmt.Sprintf("rw,nosuid,nodev,%s,size=%d", access, mib*mebi)
		if inodes > 0 { // which Podman can't limit
			options += fmt.Sprintf(",nr_inodes=%d", inodes)
		}
		return options
	}
	user, group, both := strings.Cut(s.driver.User, ":")
	own := "mode=0700,uid=" + user
	if both {
		own += ",gid=" + group
	}
	if s.engine.podman { // which takes no owner; a container has one user anyway
		own = shared
	}
	folders := map[string]string{
		workFolder: scratch("exec,"+own, limits.DiskMiB, limits.Inodes),
		"/tmp":     scratch("exec,"+shared, limits.DiskMiB, limits.Inodes),
		"/dev/shm": scratch("noexec,"+shared, min(limits.DiskMiB, memoryFolderMiB), min(limits.Inodes, memoryFolderInodes)),
	}
	for _, volume := range volumes {
		isMount := func(m driver.Mount) bool { return m.Target == volume }
		if folders[volume] == "" && path.IsAbs(volume) && !slices.ContainsFunc(mounts, isMount) {
			folders[volume] = scratch("exec,"+shared, limits.DiskMiB, limits.Inodes)
		}
	}
	return folders
}

func resources(limits driver.Resources) container.Resources {
	// The agent limits open files and core files: a rootless Podman ignores what is asked for here, and a rootless Docker can't give more than its user has.
	var r container.Resources
	if limits.MemoryMiB > 0 {
		r.Memory = int64(limits.MemoryMiB) * mebi
		r.MemorySwap = r.Memory // both together: there is no swap space
	}
	if limits.CPUs > 0 {
		r.CPUPeriod, r.CPUQuota = quotaPeriod, max(leastQuota, int64(limits.CPUs*quotaPeriod))
	}
	if limits.Processes > 0 {
		processes := int64(limits.Processes)
		r.PidsLimit = &processes
	}
	return r
}

// mounts checks what a sandbox is to show of this machine, and follows the links.
func (s *session) mounts(asked []driver.Mount) ([]driver.Mount, error) {
	if err := driver.CheckMounts(driverName, asked); err != nil {
		return nil, err
	}
	var mounts []driver.Mount
	for _, m := range asked {
		fail := func(err error, remedies ...string) ([]driver.Mount, error) {
			return nil, &driver.MountError{Driver: driverName, Mount: m, Err: err, Remedies: remedies}
		}
		if !s.engine.isHere() {
			return fail(errors.New("the engine is on another machine, and has other files"), "leave the mount out and copy the files into the sandbox", "use an engine on this machine")
		}
		source, err := filepath.EvalSymlinks(m.Source)
		if err != nil {
			return fail(err)
		}
		if info, err := os.Stat(source); err != nil {
			return fail(err)
		} else if !info.IsDir() && !info.Mode().IsRegular() {
			return fail(errors.New("it is neither a folder nor a regular file"))
		}
		if err := driver.CheckSource(source); err != nil {
			return fail(err)
		}
		if s.engine.isShownBy(source) {
			return fail(errors.New("it would show the engine's socket, by which one is root on this machine, or the engine's user"), "mount a folder of data")
		}
		m.Source = source
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// mountError makes an engine's error about one of mounts a MountError.
func mountError(err error, mounts []driver.Mount) error {
	if err == nil {
		return nil
	}
	const copyInstead = "leave the mount out and copy the files into the sandbox"
	for _, m := range mounts {
		if isMissingSource(err, m.Source) {
			return &driver.MountError{Driver: driverName, Mount: m, Err: fmt.Errorf("%w: the engine has no such file; is it in a virtual machine, or another container? %w", fs.ErrNotExist, err), Remedies: []string{
				"let the engine share that folder", copyInstead,
			}}
		}
		if isForbiddenSource(err, m.Source) {
			return &driver.MountError{Driver: driverName, Mount: m, Err: fmt.Errorf("%w: the engine may not reach it; is it another user's? %w", fs.ErrPermission, err), Remedies: []string{
				"let the engine's user reach that folder, by the modes of those above it", copyInstead,
			}}
		}
	}
	return err
}

// isMissingSource tells whether the engine does not have what was to be mounted. Its API has no other sign of that than the text.
func isMissingSource(err error, source string) bool {
	return strings.Contains(err.Error(), "bind source path does not exist: "+source)
}

// isForbiddenSource tells whether the engine, a rootless one of another user, may not reach what was to be mounted. The text is all there is again.
func isForbiddenSource(err error, source string) bool {
	return strings.Contains(err.Error(), source+": ") && strings.Contains(err.Error(), "permission denied")
}
