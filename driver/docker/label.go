//go:build !sbxworker

package docker

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/moby/moby/client"
)

// What containers and volumes are found by. The values tell whose they are.
const (
	labelPrefix  = "io.github.sandboxfn.sbx."
	labelSession = labelPrefix + "session"
	labelSandbox = labelPrefix + "sandbox"
	labelOwner   = labelPrefix + "owner" // the program; see owner
	labelEnds    = labelPrefix + "ends"  // the second, of Unix's time, at which a container is nobody's any more
	labelTag     = labelPrefix + "tag."  // and the tag
	labelWorker  = labelPrefix + "worker"
)

const (
	// graceTime is how much later than its lifetime a container is removed by others: its first process ends it in time.
	graceTime = time.Minute
	// volumeTime is how long the volume of a worker stays that no sandbox shows. A session that needs it later copies the worker again.
	volumeTime = time.Hour
	// sweepTime bounds the removal of what others have left.
	sweepTime = 10 * time.Second
)

// labels are those of every container of the session.
func (s *session) labels() map[string]string {
	return map[string]string{
		labelSession: s.spec.ID, labelOwner: owner(), labelEnds: strconv.FormatInt(time.Now().Add(s.driver.Lifetime+graceTime).Unix(), 10),
	}
}

func workerLabels() map[string]string { return map[string]string{labelWorker: "true"} }

func filter(term, value string) client.Filters { return client.Filters{}.Add(term, value) }

// sweep removes what programs have left that are gone: containers, and workers that nobody uses. What can't be removed is logged, since it is
// no reason not to go on.
func (s *session) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	warn := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			s.spec.Logger.Warn("docker: what a program that is gone has left can't be removed", slog.String("what", what), slog.Any("error", err))
		}
	}
	containers, err := s.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filter("label", labelSession)})
	warn("containers", err)
	for _, c := range containers.Items {
		if isLeft(c.Labels) {
			warn(c.ID, s.engine.remove(ctx, c.ID))
		}
	}
	volumes, err := s.engine.VolumeList(ctx, client.VolumeListOptions{Filters: filter("label", labelWorker).Add("dangling", "true")})
	warn("volumes", err)
	for _, v := range volumes.Items {
		made, err := time.Parse(time.RFC3339, v.CreatedAt)
		if err == nil && time.Since(made) > volumeTime {
			// One that is in use by now is not removed.
			_, _ = s.engine.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{})
		}
	}
}

// isLeft tells whether a container is certainly nobody's.
func isLeft(labels map[string]string) bool {
	ends, err := strconv.ParseInt(labels[labelEnds], 10, 64)
	return err == nil && time.Now().Unix() > ends || isGone(labels[labelOwner])
}
