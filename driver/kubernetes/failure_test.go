package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	watcher "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

func waits(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		Name: sandboxName, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
	}}}
}

func hasEnded(phase corev1.PodPhase, reason, message string, code int32) corev1.PodStatus {
	return corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
		Name: sandboxName, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, Message: message, ExitCode: code}},
	}}}
}

func podWith(status corev1.PodStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: "sbx-1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: sandboxName, Image: "asked:1"}}}, Status: status,
	}
}

func TestFailure(t *testing.T) {
	preempted := corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler", Message: "for another",
	}}}
	for want, status := range map[string]corev1.PodStatus{
		"":                      waits("ContainerCreating", ""),
		"CreateContainerError":  waits("CreateContainerError", "no"),
		"Evicted":               {Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory."},
		"PreemptionByScheduler": preempted,
		"OOMKilled":             hasEnded(corev1.PodFailed, "OOMKilled", "", 137),
		ReasonEnded:             hasEnded(corev1.PodFailed, "Error", "", 1),
	} {
		err := failure(podWith(status))
		if want == "" {
			assert.NoError(t, err)
			continue
		}
		wrong, ok := errors.AsType[*PodError](err)
		require.True(t, ok, "%s: %v", want, err)
		assert.Equal(t, want, wrong.Reason)
		assert.ErrorContains(t, err, "pod jobs/sbx-1")
	}
	for reason, want := range map[string]bool{"Evicted": true, "NodeShutdown": true, "OutOfcpu": true, "DeadlineExceeded": false} {
		wrong, ok := errors.AsType[*PodError](failure(podWith(corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason})))
		require.True(t, ok)
		assert.Equal(t, want, wrong.EndedByOthers(), reason)
	}
	for status, want := range map[*corev1.PodStatus]bool{&preempted: true, new(hasEnded(corev1.PodFailed, "OOMKilled", "", 137)): false, new(waits("ErrImagePull", "")): false} {
		var outside interface{ EndedByOthers() bool }
		require.ErrorAs(t, failure(podWith(*status)), &outside)
		assert.Equal(t, want, outside.EndedByOthers())
	}
	deleted := podWith(corev1.PodStatus{Phase: corev1.PodRunning})
	deleted.DeletionTimestamp = new(metav1.Now())
	assert.ErrorContains(t, failure(deleted), ReasonDeleted)
	assert.True(t, (&PodError{Reason: ReasonDeleted}).EndedByOthers())
	assert.ErrorContains(t, failure(deleted), "or the session's Lease", "which no event of the pod tells")
}

func TestFailureOfImages(t *testing.T) {
	for remedy, status := range map[string]corev1.PodStatus{
		"PullSecrets":          waits("ErrImagePull", "denied"),
		"registry/":            waits("InvalidImageName", "no reference"),
		"LoaderImage":          hasEnded(corev1.PodFailed, "StartError", `exec: "/bin/sh": stat /bin/sh: no such file or directory`, 128),
		"image of another tag": hasEnded(corev1.PodFailed, "StartError", `exec: "/.sbx-worker/12": stat /.sbx-worker/12: no such file or directory`, 128),
	} {
		wrong, ok := errors.AsType[*driver.ImageError](failure(podWith(status)))
		require.True(t, ok, remedy)
		assert.Equal(t, "asked:1", wrong.Image)
		assert.ErrorContains(t, wrong, remedy)
	}
}

func TestFailureOfRoles(t *testing.T) {
	for role, resource := range map[string]schema.GroupResource{"kubernetes/rbac.yaml": {Resource: "pods"}, "kubernetes/rbac-warm.yaml": claims.GroupResource()} {
		refused := apierrors.NewForbidden(resource, "sbx-1", fmt.Errorf("User %q cannot create resource %q in API group %q", "me", resource.Resource, resource.Group))
		assert.ErrorContains(t, createFailure("jobs", "sbx-1", refused), role)
	}
	assert.ErrorContains(t, createFailure("jobs", "sbx-1", apierrors.NewUnauthorized("Unauthorized")), "expired")
}

func TestRuntimeFailure(t *testing.T) {
	warns := func(reason, message string) error {
		return runtimeFailure("jobs", "sbx-1", corev1.Event{Reason: reason, Message: message})
	}
	for _, message := range []string{
		`Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "kata" is configured`,
		`Failed to create pod sandbox: rpc error: code = Unknown desc = failed to find runtime handler kata from runtime list map[runc:0xc000]`,
	} {
		wrong, ok := errors.AsType[*PodError](warns("FailedCreatePodSandBox", message))
		require.True(t, ok, message)
		assert.Equal(t, message, wrong.Message)
		assert.ErrorContains(t, wrong, "Options.RuntimeClass")
	}
	assert.NoError(t, warns("FailedCreatePodSandBox", "failed to setup network for sandbox"), "that may pass")
	assert.NoError(t, warns("FailedMount", "no runtime for"))
}

func TestTransient(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	assert.True(t, transient(errors.New("connection refused")), "nobody answered")
	assert.True(t, transient(apierrors.NewInternalError(errors.New("etcd"))))
	assert.True(t, transient(apierrors.NewTooManyRequests("later", 1)))
	assert.False(t, transient(apierrors.NewForbidden(pods, "a", errors.New("no"))))
	assert.False(t, transient(apierrors.NewNotFound(pods, "a")))
	assert.True(t, quotaExceeded(apierrors.NewForbidden(pods, "a", errors.New("exceeded quota: one"))))
}

func TestExpired(t *testing.T) {
	now := time.Now()
	lease := func(ago time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
			LeaseDurationSeconds: new(int32(300)), RenewTime: new(metav1.NewMicroTime(now.Add(-ago))),
		}}
	}
	assert.False(t, expired(lease(299*time.Second), now))
	assert.True(t, expired(lease(301*time.Second), now))
	assert.False(t, expired(&coordinationv1.Lease{}, now), "nobody knows whose it is")
}

func TestAllows(t *testing.T) {
	rule := func(group, resource string, verbs ...string) []authorizationv1.ResourceRule {
		return []authorizationv1.ResourceRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}}
	}
	exec := need{"", "pods/exec", "create"}
	assert.True(t, allows(rule("", "pods/exec", "create"), exec))
	assert.True(t, allows(rule("*", "*", "*"), exec))
	assert.True(t, allows(rule("", "*/exec", "create"), exec))
	assert.False(t, allows(rule("", "pods", "create"), exec))
	assert.False(t, allows(rule("", "pods/exec", "get"), exec))
	assert.False(t, allows(rule("apps", "pods/exec", "create"), exec))
}

func TestURL(t *testing.T) {
	d, err := driver.FromURL("kubernetes:?namespace=jobs&image=debian:12&network=open&lifetime=1h&worker=in-image")
	require.NoError(t, err)
	o := d.(*kubernetesDriver).options
	assert.Equal(t, "jobs", o.Namespace)
	assert.Equal(t, "debian:12", o.Image)
	assert.Equal(t, time.Hour, o.MaxLifetime)
	assert.True(t, o.Network)
	assert.True(t, o.WorkerInImage)
	for _, wrong := range []string{"kubernetes://host", "kubernetes:?nothing=1", "kubernetes:?network=some", "kubernetes:?lifetime=-1s", "kubernetes:?image=a&image=b"} {
		_, err := driver.FromURL(wrong)
		require.Error(t, err, wrong)
	}
}

func TestRoomForTheWorker(t *testing.T) {
	of := func(mib int) driver.Spec { return driver.Spec{ID: "s-1", Limits: driver.Resources{MemoryMiB: mib}} }
	sent, inImage := &session{cluster: &cluster{namespace: "jobs"}}, &session{options: Options{WorkerInImage: true}}
	cached := &session{options: Options{NodeCache: "/var/cache/sbx"}}
	const size = 80<<20 + 1
	err := sent.roomFor(of(64), size)
	limit, ok := errors.AsType[*driver.LimitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, driver.LimitMemory, limit.Limit)
	assert.ErrorContains(t, err, "takes 81 of the 64 MiB")
	assert.Error(t, sent.roomFor(of(86), size))
	assert.Error(t, sent.roomFor(driver.Spec{ID: "s-1", Soft: driver.Resources{MemoryMiB: 64}}, size))
	_, err = sent.podFor("sbx-1", of(64), size)
	assert.ErrorAs(t, err, &limit, "no pod is made")

	assert.NoError(t, sent.roomFor(of(87), size))
	assert.NoError(t, sent.roomFor(of(0), size))
	assert.NoError(t, inImage.roomFor(of(64), size))
	assert.NoError(t, cached.roomFor(of(64), size), "but the first pods of a node")
}

// A sandbox may wait for a pod that can't be made ready.
func TestWhyAPodIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{done: make(chan struct{})}
		s := &session{cluster: &cluster{namespace: "jobs"}, loads: map[string]*load{"sbx-1": l}}
		pod := podWith(corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: sandboxName, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}})
		sb := &sandbox{session: s, name: "sbx-1", pod: &observed{pod: pod, changed: make(chan struct{})}}
		failed := make(chan error, 1)
		go func() { failed <- sb.startWarm(t.Context()) }()
		synctest.Wait()
		l.err = errors.ErrUnsupported
		s.takeLoad("sbx-1") // as loadWarm does, which is often first
		close(l.done)
		assert.Equal(t, errors.ErrUnsupported, <-failed)
	})
}

// The end of a container is often seen in its log or its connection before the cluster tells of it.
func TestEndsAreExplained(t *testing.T) {
	running := podWith(corev1.PodStatus{Phase: corev1.PodRunning})
	sb := &sandbox{session: &session{cluster: &cluster{namespace: "jobs"}}, pod: &observed{pod: running, changed: make(chan struct{})}}
	assert.Equal(t, errors.ErrUnsupported, sb.explained(t.Context(), errors.ErrUnsupported), "nothing is waited for")
	forbidden := sb.explained(t.Context(), fmt.Errorf("send the worker: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "pods/exec"}, "sbx-1",
		errors.New(`User "me" cannot create resource "pods/exec" in API group ""`))))
	assert.ErrorContains(t, forbidden, "rbac.yaml", "of a role that was edited meanwhile")
	time.AfterFunc(50*time.Millisecond, func() {
		sb.pod.mu.Lock()
		defer sb.pod.mu.Unlock()
		sb.pod.pod = podWith(hasEnded(corev1.PodFailed, "OOMKilled", "", 137))
		close(sb.pod.changed)
	})
	assert.ErrorContains(t, sb.explained(t.Context(), fmt.Errorf("the log ends: %w", io.EOF)), "OOMKilled")

	sb.pod = &observed{pod: running, gone: true, changed: make(chan struct{})}
	assert.Equal(t, io.EOF, sb.explained(t.Context(), io.EOF), "the cluster doesn't say")
}

// Each Close breaks connections off, of which client-go says that they failed.
func TestErrorsOfClientGoAreDetails(t *testing.T) {
	said := func(level slog.Level) string {
		var text strings.Builder
		logger := logr.FromSlogHandler(quiet{slog.NewTextHandler(&text, &slog.HandlerOptions{Level: level})})
		logger.WithName("stream").WithValues("id", 1).Error(io.ErrClosedPipe, "Websocket Ping failed")
		logger.Info("Waited before sending request")
		return text.String()
	}
	assert.NotContains(t, said(slog.LevelInfo), "Ping")
	assert.Contains(t, said(slog.LevelInfo), "Waited")
	assert.Contains(t, said(slog.LevelDebug), "level=DEBUG msg=\"Websocket Ping failed\"")
}

// The watch is tried again and again, and whoever waits for a pod would learn nothing.
func TestAWatchThatFailsIsTold(t *testing.T) {
	var text strings.Builder
	w := newWatch(nil, nil, slog.New(slog.NewTextHandler(&text, nil)))
	expired := errors.New("x509: certificate has expired")
	list := &cache.ListWatch{
		ListWithContextFunc:  func(context.Context, metav1.ListOptions) (runtime.Object, error) { return nil, expired },
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watcher.Interface, error) { return nil, expired },
	}
	running, cancel := context.WithCancel(t.Context())
	ctx, stop := context.WithTimeout(running, 3*time.Second)
	defer stop()
	var tasks sync.WaitGroup
	err := w.start(ctx, running, list, &tasks)
	cancel()
	tasks.Wait()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, expired)
	assert.Equal(t, 1, strings.Count(text.String(), "does not tell"), text.String())
	assert.Contains(t, text.String(), expired.Error())
	assert.True(t, ordinary(io.EOF))
}
