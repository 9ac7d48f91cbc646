// Package docker is a driver whose sandboxes are containers of a Docker Engine, or of another engine with its API, such as Podman.
//
// # What a sandbox is
//
// A container without network, with a read-only root that comes from an image, without capabilities and privileges (no-new-privileges), with the engine's own
// filter of system calls, as a user that no image knows (Options.User). It can write to /work, where it starts, and to /tmp, which are of
// Options.ScratchMiB with 16,384 inodes each, and to /dev/shm: all are in memory. Programs can be run from the first two, since that is
// where people build some. What an image declares as a volume is such a folder, too. Processes (4096), open files (16,384), DiskMiB
// and Inodes have defaults; MemoryMiB (without swap space) and CPUs have none. Limits are held where the engine can hold them, and refused elsewhere; the session's
// report says which (Podman can't limit inodes). The sandbox's environment goes to the worker alone: who inspects the container doesn't see it.
//
// The worker needs nothing of the image. It must be linked statically: the program itself if it was built with CGO_ENABLED=0, or the worker
// that go tool sbxgen worker builds (sbx.AutoBuild has it built). It is copied to the engine once for each content, into a volume
// named sbx-worker-…, which all sandboxes show, read-only. Of these volumes, those that no sandbox shows and that are older than an hour are removed when
// a session opens; whoever needs one again makes it anew.
//
// # How calls get there
//
// The worker's file is also the container's first process (package internal/agent). Where program and engine are on the same Linux machine, the program
// hands it a socket, pipes and memory that both share, so that calls cost what they cost in the local driver. Where they are not (TCP,
// Docker Desktop, gVisor, SELinux), everything goes through the engine, as the container's standard input and output; it is then not known which calls had begun
// in a worker that was lost. Which of the two it is, the first sandbox of a session finds out.
//
// # What ends it
//
// A sandbox ends with its worker, and when the program is gone, killed or not, as well as after Options.Lifetime: its first process sees to that, without the
// program or the engine. The engine removes the container. When an engine is restarted, it ends its containers, unless it is
// configured otherwise (live-restore) or is Podman. What an engine that was killed has left is removed when the next session opens, of any program: containers
// whose lifetime is over, or whose program ran on this machine and is gone.
//
// driver.Exit tells a kill for lack of memory by the kernel's count for the container, which has its own. Where the first process was
// killed too, it is the engine's word.
//
// # Rootless engines
//
// Docker and Podman of an ordinary user do the same, but for this. Memory, CPUs and processes are limited where cgroups of version 2 are that systemd delegates
// to the user; elsewhere these limits are refused. User ids in sandboxes are of those that /etc/subuid gives to the engine's user. To one of these belongs what a sandbox writes to a
// mount, so that of folders made there the user gets rid with podman unshare rm -r, or rootlesskit rm -r. With Options.User "0:0" sandboxes have the id of the engine's user:
// what they write is the user's own, and they read what the user may read of a mount. They have no capabilities then either, but see how many descriptors the
// first process has. With an engine of root, that is the id of root. Where an engine may not reach the program's sockets, since it is another user's, everything goes through the engine.
//
// # What is not held
//
// Containers share the machine's kernel, but for the runtime runsc (gVisor). Whoever can talk to the engine is root on its machine, or its user if it is rootless, so a mount that would show the
// socket which the program uses is refused. Of a folder to mount that Podman doesn't have, since it is in a virtual machine, it makes an empty one and shows that. An image's files are readable as their modes say. The engine isn't protected from a program that makes more sandboxes than the
// machine bears. With Options.Network sandboxes reach what that network reaches. docs/security.md has the whole list.
package docker

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/sandboxfn/sbx/driver"
)

// Options configure the driver. The zero value is the default.
type Options struct {
	// Host is where the engine is: "unix:///var/run/docker.sock", "tcp://host:2376", or "ssh://user@host", where ssh logs in by key and runs the docker command,
	// once for each connection (ControlMaster in ssh's configuration makes that cheap). Empty means what DOCKER_HOST says, and without that the first usual
	// socket that is there, of Docker or Podman. For TLS, DOCKER_CERT_PATH and DOCKER_TLS_VERIFY count as for the docker command.
	Host string
	// Image is the image of sandboxes that don't name another. Functions need nothing of it, commands need what they are. Empty means "busybox:stable", the
	// smallest that has a shell and the usual tools.
	Image string
	// Pull says when images are pulled: "missing", the default, "always", once in each session, or "never". The engine is given what docker login, or podman login
	// where docker has no configuration, was told of the image's registry on this machine, also by a credential helper.
	Pull string
	// Network is the engine's network that sandboxes are in. Empty means "none".
	Network string
	// Runtime is the engine's runtime for sandboxes; empty means its default. With "runsc" (gVisor) they have a kernel of their own.
	Runtime string
	// User is the user id, or the user and group ids, of all processes in sandboxes. Empty means "65532:65532".
	User string
	// ScratchMiB is the size of each sandbox's /work and of its /tmp, in MiB, where its spec has no DiskMiB. 0 means 256.
	ScratchMiB int
	// Lifetime is how long a sandbox lives at most. 0 means 24 hours.
	Lifetime time.Duration
}

const (
	driverName = "docker"

	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"

	noNetwork = "none"
)

// userIDs are one or two numbers.
var userIDs = regexp.MustCompile(`^[0-9]{1,10}(:[0-9]{1,10})?$`)

func init() { driver.Register(driverName, fromURL) }

// New returns the driver. opts may be nil. It does no I/O; what is wrong with opts is reported by Open. Its URL is "docker:", or "docker://host:port" for an engine elsewhere,
// or "docker:///path" for a socket, with the other options as parameters: "docker:?image=debian:12&network=bridge&scratch-mib=1024&lifetime=1h".
func New(opts *Options) driver.Driver {
	if opts == nil {
		opts = &Options{}
	}
	d := dockerDriver{Options: *opts}
	d.Image = cmp.Or(d.Image, "busybox:stable")
	d.Pull = cmp.Or(d.Pull, pullMissing)
	d.Network = cmp.Or(d.Network, noNetwork)
	d.User = cmp.Or(d.User, "65532:65532")
	d.ScratchMiB = cmp.Or(d.ScratchMiB, 256)
	d.Lifetime = cmp.Or(d.Lifetime, 24*time.Hour)
	return d
}

type dockerDriver struct {
	Options
	// streams keeps sandboxes from being reached over sockets, for tests.
	streams bool
}

func (dockerDriver) Name() string { return driverName }

// check says what is wrong with the options.
func (d dockerDriver) check() error {
	switch {
	case d.Pull != pullMissing && d.Pull != pullAlways && d.Pull != pullNever:
		return fmt.Errorf("docker: Options.Pull is %q, want missing, always or never", d.Pull)
	case !userIDs.MatchString(d.User):
		return fmt.Errorf("docker: Options.User is %q, want numbers, such as 65532 or 65532:65532", d.User)
	case d.ScratchMiB < 0:
		return fmt.Errorf("docker: Options.ScratchMiB is %d, want at least 0", d.ScratchMiB)
	case d.Lifetime < time.Second:
		return fmt.Errorf("docker: Options.Lifetime is %v, want a second at least", d.Lifetime)
	}
	return nil
}

// defaults are the limits of sandboxes that don't ask for others.
func (d dockerDriver) defaults() driver.Resources {
	return driver.Resources{Processes: 4096, OpenFiles: 16 << 10, DiskMiB: d.ScratchMiB, Inodes: 16 << 10}
}

// fromURL has the engine's place as host or path, and the other options' fields as parameters.
func fromURL(u *url.URL) (driver.Driver, error) {
	var opts Options
	switch {
	case u.User != nil:
		return nil, errors.New("an engine's address has no user or password; TLS certificates are found by DOCKER_CERT_PATH")
	case u.Opaque != "" || u.Host != "" && u.Path != "" && u.Path != "/":
		return nil, errors.New("give docker:, docker://host:port, or docker:///path/of/a/socket")
	case u.Host != "":
		opts.Host = "tcp://" + u.Host
	case u.Path != "":
		opts.Host = "unix://" + u.Path
	}
	for name, values := range u.Query() {
		var err error
		switch value := values[len(values)-1]; name {
		case "image":
			opts.Image = value
		case "pull":
			opts.Pull = value
		case "network":
			opts.Network = value
		case "runtime":
			opts.Runtime = value
		case "user":
			opts.User = value
		case "scratch-mib":
			opts.ScratchMiB, err = strconv.Atoi(value)
		case "lifetime":
			opts.Lifetime, err = time.ParseDuration(value)
		default:
			err = errors.New("there is no such parameter; there are image, pull, network, runtime, user, scratch-mib and lifetime")
		}
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", name, err)
		}
	}
	d := New(&opts)
	return d, d.(dockerDriver).check()
}
