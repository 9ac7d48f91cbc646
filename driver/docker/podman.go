//go:build !sbxworker

package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/system"
)

// maxPodmanInfo bounds what is read of Podman's answer.
const maxPodmanInfo = 1 << 20

// podmanInfo is what Podman says of itself in its own API, as far as it matters here.
type podmanInfo struct {
	Host struct {
		CgroupManager     string
		CgroupControllers []string // those that it may use
		Security          struct{ Rootless bool }
	}
}

// podmanVersion is the version of Podman's own API; empty if the engine isn't Podman.
func podmanVersion(components []system.ComponentVersion) string {
	for _, c := range components {
		if strings.HasPrefix(c.Name, "Podman") {
			return c.Version
		}
	}
	return ""
}

// askPodman corrects what info says of limits. In Docker's API, Podman says what the machine's kernel can, also where it ignores limits since it is rootless.
func (e *engine) askPodman(ctx context.Context, version string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dialer()(ctx) }, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/v"+version+"/libpod/info", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("what Podman says of itself (libpod/info): %s", response.Status)
	}
	var info podmanInfo
	if err := json.NewDecoder(io.LimitReader(response.Body, maxPodmanInfo)).Decode(&info); err != nil {
		return fmt.Errorf("what Podman says of itself (libpod/info): %w", err)
	}
	e.limitAs(info)
	return nil
}

// limitAs keeps of the limits those that Podman holds. A rootless one has cgroups of its own from systemd only.
func (e *engine) limitAs(info podmanInfo) {
	can := func(controller string) bool {
		return slices.Contains(info.Host.CgroupControllers, controller) && (!info.Host.Security.Rootless || info.Host.CgroupManager == "systemd")
	}
	e.info.MemoryLimit = e.info.MemoryLimit && can("memory")
	e.info.CPUCfsQuota = e.info.CPUCfsQuota && can("cpu")
	e.info.PidsLimit = e.info.PidsLimit && can("pids")
}
