//go:build !sbxworker

package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"path"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Where pods see the folder of their node that keeps the worker.
const (
	cacheName  = "sbx-cache"
	cacheDir   = "/.sbx-cache"
	cachedPath = cacheDir + "/worker"
)

// keep puts a worker that has arrived into the folder: whole, or not at all, whatever becomes of the node meanwhile. Its name there is the pod's, so
// that what another one left is in nobody's way. Its argument is the hash.
const keep = `part=` + cacheDir + `/part.${HOSTNAME:-$$}
if cp ` + workerPath + ` $part && sum=$(sha256sum <$part) && [ "${sum%% *}" = "$1" ] && chmod 555 $part && sync && mv $part ` + cachedPath + `; then exit 0; fi
rm -f $part
exit 1`

// cacheVolume is the node's folder for the session's worker. Whoever comes first has the kubelet make it, for root.
func (s *session) cacheVolume() corev1.Volume {
	return corev1.Volume{Name: cacheName, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: path.Join(s.options.NodeCache, s.worker.sum), Type: new(corev1.HostPathDirectoryOrCreate),
	}}}
}

// fillCache has a node keep the worker, in the background: once a session, since a node on which that fails goes on without.
func (s *session) fillCache(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.filled[node] {
		return
	}
	s.filled[node] = true
	name := fmt.Sprintf("%s-cache-%d", s.name, len(s.filled))
	s.creating.Add(1)
	go func() {
		defer s.creating.Done()
		if err := s.runFiller(s.ending, name, node); err != nil && s.ending.Err() == nil {
			s.spec.Logger.Warn("a node does not keep the worker, which is sent to each of its pods", slog.String("node", node), slog.Any("error", err))
		}
	}()
}

// runFiller runs a pod that puts the worker into the node's folder.
func (s *session) runFiller(ctx context.Context, name, node string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sb := &sandbox{session: s, name: name, pod: s.pods.expect(name)}
	defer s.pods.forget(name)
	defer func() { _ = sb.remove() }()
	if err := s.createPod(ctx, s.filler(name, node)); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go sb.cancelOnFailure(ctx, cancel, done)
	if _, err := sb.awaitRunning(ctx, loaderName); err != nil {
		return err
	}
	lines, err := sb.follow(ctx, loaderName)
	if err != nil {
		return err
	}
	defer func() { _ = lines.Close() }()
	if _, err := lines.find(loaderHello); err != nil {
		return err
	}
	if err := s.sendWorker(ctx, name, loaderName); err != nil && !sb.loaded(ctx, loaderName) {
		return err
	}
	_, _, err = sb.pod.await(ctx, func(pod *corev1.Pod, gone bool) bool { return gone || pod.Status.Phase == corev1.PodSucceeded })
	return err
}

// filler is the one pod that may write into the folder. Its image is the driver's own, and no sandbox's.
func (s *session) filler(name, node string) *corev1.Pod {
	no, grace, lifetime := false, int64(1), int64(loadTime.Seconds())
	security := hardened(0)
	security.RunAsNonRoot = &no
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{leaseLabel: s.name}, OwnerReferences: []metav1.OwnerReference{s.owner()}},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			TerminationGracePeriodSeconds: &grace, ActiveDeadlineSeconds: &lifetime,
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Volumes:     []corev1.Volume{scratch("sbx-agent", s.worker.size>>20+2, false), s.cacheVolume()},
			Containers: []corev1.Container{{
				Name: loaderName, Image: s.options.Image, Command: append(loader("", keep, loadTime), "sbx", s.worker.sum), SecurityContext: security,
				VolumeMounts: []corev1.VolumeMount{{Name: "sbx-agent", MountPath: agentDir}, {Name: cacheName, MountPath: cacheDir}},
			}},
		},
	}
}
