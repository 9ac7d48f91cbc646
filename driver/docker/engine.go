//go:build !sbxworker

package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/docker/cli/cli/connhelper"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/sandboxfn/sbx/driver"
)

const sshScheme = "ssh://"

// engine is what a session talks to.
type engine struct {
	*client.Client
	info system.Info
	// podman says that it is Podman, which takes fewer options of folders in memory.
	podman bool
}

// find connects to the engine and asks what it is.
func find(ctx context.Context, opts Options) (*engine, error) {
	options, err := reach(findHost(opts.Host))
	if err != nil {
		return nil, err
	}
	api, err := client.New(options...)
	if err != nil {
		return nil, unavailable(fmt.Errorf("the engine's address or certificates are wrong: %w", err))
	}
	e := &engine{Client: api}
	result, err := api.Info(ctx, client.InfoOptions{})
	e.info = result.Info
	if err == nil {
		var version client.ServerVersionResult
		version, err = api.ServerVersion(ctx, client.ServerVersionOptions{})
		if podman := podmanVersion(version.Components); err == nil && podman != "" {
			e.podman = true
			err = e.askPodman(ctx, podman)
		}
	}
	if err == nil {
		err = e.check(opts)
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else {
		err = unavailable(fmt.Errorf("the engine does not answer: %w", err), opts.bySSH()...)
	}
	if err != nil {
		_ = api.Close()
		return nil, err
	}
	return e, nil
}

// bySSH is what to do where the engine is reached by ssh and does not answer.
func (o *Options) bySSH() []string {
	if !strings.HasPrefix(cmp.Or(o.Host, os.Getenv(client.EnvOverrideHost)), sshScheme) {
		return nil
	}
	return []string{"see that ssh to that host logs in without a question, and that the command docker version answers there"}
}

// reach says how the client connects to a host; an empty one is what DOCKER_HOST says.
func reach(host string) ([]client.Opt, error) {
	address := cmp.Or(host, os.Getenv(client.EnvOverrideHost))
	if strings.HasPrefix(address, sshScheme) {
		// As the docker command does it: each connection is an ssh that runs docker system dial-stdio there.
		ssh, err := connhelper.GetConnectionHelper(address)
		if err != nil {
			return nil, unavailable(errors.New("the engine's address is wrong: it has a password, or is not like ssh://user@host:22"), "let ssh log in with a key")
		}
		return []client.Opt{client.WithHost(ssh.Host), client.WithDialContext(ssh.Dialer), client.WithAPIVersionFromEnv()}, nil
	}
	if err := checkHost(address); err != nil {
		return nil, err
	}
	options := []client.Opt{client.FromEnv}
	if host != "" {
		options = append(options, client.WithHost(host))
	}
	return options, nil
}

// findHost is what was asked for, or else the first usual socket that is there; empty for the client's own default.
func findHost(asked string) string {
	if asked != "" || os.Getenv(client.EnvOverrideHost) != "" || runtime.GOOS == "windows" {
		return asked
	}
	runtimeFolder := os.Getenv("XDG_RUNTIME_DIR")
	home, _ := os.UserHomeDir()
	for _, path := range []string{
		"/var/run/docker.sock", filepath.Join(runtimeFolder, "docker.sock"), filepath.Join(home, ".docker/run/docker.sock"),
		filepath.Join(runtimeFolder, "podman/podman.sock"), "/run/podman/podman.sock",
	} {
		if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) {
			return "unix://" + path
		}
	}
	return ""
}

// checkHost refuses addresses that are not for this driver. Its errors show nothing of them, and after it nobody's can show a password.
func checkHost(host string) error {
	_, rest, _ := strings.Cut(host, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if strings.Contains(authority, "@") {
		return unavailable(errors.New("the engine's address has a user or password, which no engine takes"), "leave it out; TLS certificates are found by DOCKER_CERT_PATH")
	}
	return nil
}

func unavailable(err error, remedies ...string) error {
	if len(remedies) == 0 {
		remedies = []string{"start Docker", "say with DOCKER_HOST where the engine is"}
		if errors.Is(err, os.ErrPermission) {
			remedies = []string{"let this user talk to the engine, by the group docker or a rootless engine"}
		}
	}
	return &driver.UnavailableError{Driver: driverName, Err: err, Remedies: remedies}
}

// check refuses an engine whose containers can't be sandboxes.
func (e *engine) check(opts Options) error {
	if e.info.OSType != "linux" {
		return unavailable(fmt.Errorf("the engine runs containers of %s", e.info.OSType), "switch it to Linux containers")
	}
	if _, ok := e.info.Runtimes[opts.Runtime]; !ok && opts.Runtime != "" {
		return unavailable(fmt.Errorf("the engine has no runtime %q", opts.Runtime), "add it to the engine's configuration (daemon.json)", "leave Options.Runtime out")
	}
	return nil
}

// platform is what workers run on.
func (e *engine) platform() driver.Platform {
	arch := e.info.Architecture
	switch arch {
	case "x86_64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	return driver.Platform{OS: "linux", Arch: arch, Alone: true}
}

// isHere reports whether the engine may be on this machine, or show it: where it is reached without a network.
func (e *engine) isHere() bool {
	host := e.DaemonHost()
	return strings.HasPrefix(host, "unix://") || strings.HasPrefix(host, "npipe://")
}

// isShownBy reports whether the engine's socket is at a path without links, or below it.
func (e *engine) isShownBy(folder string) bool {
	socket, ok := strings.CutPrefix(e.DaemonHost(), "unix://")
	if !ok {
		return false
	}
	if target, err := filepath.EvalSymlinks(socket); err == nil {
		socket = target
	}
	relative, err := filepath.Rel(folder, socket)
	return err == nil && filepath.IsLocal(relative)
}

// report says what sandboxes hold.
func (e *engine) report(opts Options) driver.Report {
	held := func(name, by string) driver.Capability { return driver.Capability{Name: name, Held: true, By: by} }
	r := driver.Report{Driver: driverName, Isolation: driver.SharedKernel, Capabilities: []driver.Capability{
		held("files", "a mount namespace with the image as its root, read-only but for private folders in memory"),
		held("processes of others", "a pid namespace"),
		held("network", "a network namespace with loopback only"),
		held("privileges", "no capabilities, no-new-privileges, the user "+opts.User),
		held("system calls", "the engine's seccomp profile"),
	}}
	if opts.Runtime == "runsc" {
		r.Isolation = driver.OwnKernel
	}
	if opts.Network != noNetwork {
		r.Capabilities[2] = driver.Capability{
			Name: "network", Why: fmt.Sprintf("sandboxes are in the network %s, as was asked for", opts.Network), Remedies: []string{"leave Options.Network out"},
		}
	}
	if !slices.ContainsFunc(e.info.SecurityOptions, func(option string) bool { return strings.Contains(option, "name=seccomp") || option == "seccomp" }) {
		r.Capabilities[4] = driver.Capability{Name: "system calls", Why: "the engine has no seccomp profile", Remedies: []string{"use an engine that has one"}}
	}
	folders := "the size of /work, of /tmp and of /dev/shm, each a file system in memory"
	limits := []struct {
		name, by string
		can      bool
	}{
		{driver.LimitCPUs, "the quota of the container's cgroup", e.info.CPUCfsQuota},
		{driver.LimitMemory, "the container's memory cgroup", e.info.MemoryLimit},
		{driver.LimitProcesses, "the container's pids cgroup", e.info.PidsLimit},
		{driver.LimitOpenFiles, "RLIMIT_NOFILE", true},
		{driver.LimitDisk, folders, true},
		{driver.LimitInodes, strings.Replace(folders, "size", "inodes", 1), true},
	}
	for _, limit := range limits {
		c := held(limit.name, limit.by)
		switch {
		case limit.name == driver.LimitInodes && e.podman:
			c = driver.Capability{Name: limit.name, Why: "Podman's API has no such option of folders in memory", Remedies: []string{"use Docker"}}
		case !limit.can:
			c = driver.Capability{
				Name: limit.name, Why: "the engine says that it can't: it may not use that controller of cgroups",
				Remedies: []string{"let the engine use cgroups (a rootless one: those of version 2, which systemd delegates to its user)"},
			}
		}
		r.Capabilities = append(r.Capabilities, c)
	}
	return r
}
