//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/driver"
)

// hostFolders are what all sandboxes show of the host, as the local driver does.
var hostFolders = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}

// installed returns the peers that this machine has, with what they need in folder.
func installed(folder string) ([]peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var peers []peer
	if path, err := exec.LookPath("bwrap"); err == nil {
		arguments := []string{"--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", self, "/worker"}
		for _, folder := range hostFolders {
			if target, err := os.Readlink(folder); err == nil {
				arguments = append(arguments, "--symlink", target, folder)
			} else if _, err := os.Stat(folder); err == nil {
				arguments = append(arguments, "--ro-bind", folder, folder)
			}
		}
		peers = append(peers, peer{"bubblewrap", startPlain(path, append(arguments, "/worker")...)})
	}
	if path, err := exec.LookPath("crun"); err == nil {
		bundle := filepath.Join(folder, "bundle")
		if err := writeBundle(bundle, self); err != nil {
			return nil, err
		}
		serial := 0
		peers = append(peers, peer{"crun", func(ctx context.Context) (func() error, error) {
			serial++
			return startPlain(path, "--root", filepath.Join(folder, "crun"), "--cgroup-manager=disabled", "run", "--preserve-fds=2",
				"--bundle", bundle, fmt.Sprintf("bench-%d-%d", os.Getpid(), serial))(ctx)
		}})
	}
	return peers, nil
}

// writeBundle writes a container for crun, of https://github.com/opencontainers/runtime-spec/blob/main/config.md.
func writeBundle(bundle, self string) error {
	root := filepath.Join(bundle, "rootfs")
	for _, folder := range []string{"dev", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			return err
		}
	}
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
		{"destination": "/worker", "type": "bind", "source": self, "options": []string{"bind", "ro"}},
	}
	for _, folder := range hostFolders {
		if target, err := os.Readlink(folder); err == nil {
			if err := os.Symlink(target, filepath.Join(root, folder)); err != nil {
				return err
			}
		} else if _, err := os.Stat(folder); err == nil {
			mounts = append(mounts, map[string]any{"destination": folder, "type": "bind", "source": folder, "options": []string{"rbind", "ro"}})
		}
	}
	var namespaces []map[string]string
	for _, kind := range []string{"user", "mount", "pid", "network", "ipc", "uts", "cgroup"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	content, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"root":       map[string]any{"path": root, "readonly": true},
		"process": map[string]any{
			"user": map[string]int{"uid": 0, "gid": 0}, "args": []string{"/worker"}, "env": []string{workerVariable + "=1"},
			"cwd": "/", "noNewPrivileges": true, "capabilities": map[string]any{},
		},
		"mounts": mounts,
		"linux": map[string]any{
			"namespaces":  namespaces,
			"uidMappings": []map[string]int{{"containerID": 0, "hostID": os.Geteuid(), "size": 1}},
			"gidMappings": []map[string]int{{"containerID": 0, "hostID": os.Getegid(), "size": 1}},
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), content, 0o600)
}

// parked prints what sandboxes that wait take beside their workers: the memory of each one's process 1.
func parked(ctx context.Context, session driver.Session) error {
	const count = 20
	start := startSandbox(session)
	var total uint64
	var found int
	for range count {
		end, err := start(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = end() }()
	}
	// Process 1 starts the worker, and only then becomes what is looked for.
	for wait := time.Millisecond; found < count && wait < 2*time.Second; wait *= 2 {
		time.Sleep(wait)
		total, found = 0, 0
		agents, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, path := range agents {
			line, _ := os.ReadFile(path)
			if !strings.HasPrefix(string(line), "/.sbx/agent\x00bench/") {
				continue
			}
			size, err := proportional(filepath.Join(filepath.Dir(path), "smaps_rollup"))
			if err != nil {
				fmt.Printf("\nwhat a parked sandbox takes can't be read as an ordinary user: %v\n", err)
				return nil
			}
			total += size
			found++
		}
	}
	if found != count {
		return fmt.Errorf("%d of %d sandboxes were found in /proc", found, count)
	}
	fmt.Printf("\na parked sandbox takes %.2f MiB beside its worker: process 1's share of memory, the mean of %d\n", float64(total)/count/(1<<20), count)
	return nil
}

// proportional is a process's memory, with its share of what it has in common with others, in bytes.
func proportional(path string) (uint64, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s has no Pss", path)
}
