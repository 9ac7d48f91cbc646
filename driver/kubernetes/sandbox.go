//go:build !sbxworker

package kubernetes

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/internal/agent/remote"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// startTime is how long a pod may take that has a node: large images are pulled meanwhile.
	startTime = 10 * time.Minute
	// runtimePause is until a pod with a runtime class is looked at, which starts no sooner than others do; each pause after that is twice as long.
	runtimePause = time.Second
	// loadedTime is how long the cluster may take to tell that a loader has ended.
	loadedTime = 5 * time.Second
	// quotaTime is how long a quota may take to count a pod that is gone no more, and quotaPause is between two tries.
	quotaTime  = 10 * time.Second
	quotaPause = 200 * time.Millisecond
	// newsTime is how long the cluster may take to tell what became of a pod whose connection broke, or whose log ended. A session waits a little longer.
	newsTime = 4 * time.Second
	// killTime is how long an agent has to say that all is dead, before the cluster is asked.
	killTime = 2 * time.Second
)

type sandbox struct {
	session *session
	spec    driver.Spec
	name    string // of the pod
	claim   string // what holds the pod, if it was made before; empty if the pod is the sandbox's own
	pod     *observed
	agent   *remote.Agent

	stopping chan struct{} // holds one value while somebody stops it
	removed  bool          // all is done; guarded by stopping

	mu      sync.Mutex
	stopped bool
	unknown bool // the connection broke while it was stopped: its processes may live
	process driver.Process
}

// newSandbox makes a pod and brings the worker there. If it fails, nothing is left but what the cluster is deleting.
func (s *session) newSandbox(ctx context.Context, name string, spec driver.Spec) (_ *sandbox, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ending, func() { cancel(fmt.Errorf("session is %w", driver.ErrStopped)) })
	defer stop()
	sb := &sandbox{session: s, spec: spec, name: name, stopping: make(chan struct{}, 1)}
	warm := s.isWarm(spec)
	if warm {
		sb.claim = name
	} else {
		sb.pod = s.pods.expect(name)
	}
	defer func() { s.pods.forget(sb.name) }()
	defer func() {
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = errors.Join(err, sb.remove())
	}()
	if warm {
		err = sb.claimPod(ctx)
	} else {
		err = sb.makePod(ctx)
	}
	if err != nil {
		return nil, err
	}
	// From here on it is the pod's state that ends all of what follows.
	var watching sync.WaitGroup
	defer watching.Wait()
	done := make(chan struct{})
	defer close(done)
	watching.Go(func() { sb.cancelOnFailure(ctx, cancel, done) })
	if warm {
		err = sb.startWarm(ctx)
	} else {
		err = sb.start(ctx)
	}
	if err != nil {
		return nil, sb.explained(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sandboxes[sb] = struct{}{}
	return sb, nil
}

func (sb *sandbox) makePod(ctx context.Context) error {
	pod, err := sb.session.podFor(sb.name, sb.spec, sb.session.worker.size)
	if err != nil {
		return err
	}
	return sb.session.createPod(ctx, pod)
}

// delete has the cluster delete the pod.
func (sb *sandbox) delete(ctx context.Context) error {
	if sb.claim == "" {
		return sb.session.deletePod(ctx, sb.name)
	}
	sb.session.pods.markDeleted(sb.name)
	if err := sb.session.deleteWarm(ctx, claims, sb.claim); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the claim %s of pod %s/%s: %w", sb.claim, sb.session.namespace, sb.name, err)
	}
	return nil
}

// createPod makes the pod. What is full because of this session's own pods that are ending is waited for.
func (s *session) createPod(ctx context.Context, pod *corev1.Pod) error {
	for {
		ending, last := s.pods.ending()
		tries := 0
		err := retry(ctx, func() error {
			tries++
			_, err := s.client.CoreV1().Pods(s.namespace).Create(ctx, pod, metav1.CreateOptions{})
			if tries > 1 && apierrors.IsAlreadyExists(err) { // an answer was lost; nobody else has such names
				return nil
			}
			return err
		})
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !quotaExceeded(err):
			return createFailure(s.namespace, pod.Name, err)
		case len(ending) > 0:
			if _, _, err := ending[0].await(ctx, func(_ *corev1.Pod, gone bool) bool { return gone }); err != nil {
				return err
			}
		case time.Since(last) > quotaTime:
			return createFailure(s.namespace, pod.Name, err)
		default: // quotas are counted later, and nothing tells when
			select {
			case <-time.After(quotaPause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// cancelOnFailure ends a start when the pod fails or takes too long.
func (sb *sandbox) cancelOnFailure(ctx context.Context, cancel context.CancelCauseFunc, done <-chan struct{}) {
	late := time.NewTimer(sb.session.options.MaxPending)
	defer late.Stop()
	pause := runtimePause
	look := time.NewTimer(pause) // counts from when there is a node
	defer look.Stop()
	scheduled := false
	for {
		pod, gone, changed := sb.pod.state()
		if pod != nil {
			if err := failure(pod); err != nil {
				cancel(err)
				return
			}
			if !scheduled && pod.Spec.NodeName != "" {
				scheduled = true
				late.Reset(startTime)
				look.Reset(pause)
			}
		}
		if gone {
			cancel(sb.wrong(ReasonDeleted, "it is no more"))
			return
		}
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-changed:
		case <-look.C:
			if scheduled && pod.Status.Phase == corev1.PodPending && pod.Spec.RuntimeClassName != nil {
				if err := sb.noRuntime(ctx); err != nil {
					cancel(err)
					return
				}
				pause *= 2
				look.Reset(pause)
			}
		case <-late.C:
			cancel(sb.tooLate(ctx, pod))
			return
		}
	}
}

// noRuntime says that the pod's node has no handler of its runtime class, for which the kubelet tries again and again. Only events tell of that.
func (sb *sandbox) noRuntime(ctx context.Context) error {
	for _, event := range sb.session.events(ctx, sb.name) {
		if err := runtimeFailure(sb.session.namespace, sb.name, event); err != nil {
			return err
		}
	}
	return nil
}

// tooLate says why a pod has not started in time.
func (sb *sandbox) tooLate(ctx context.Context, pod *corev1.Pod) error {
	if pod == nil {
		return sb.wrong(ReasonSlow, "the cluster did not tell of it")
	}
	if err := unschedulable(pod); err != nil {
		return err
	}
	wrong := sb.wrong(ReasonSlow, fmt.Sprintf("it has not started within %v", startTime))
	for _, event := range sb.session.events(ctx, sb.name) {
		wrong.Message += "; " + event.Reason + ": " + event.Message
	}
	return wrong
}

func (sb *sandbox) wrong(reason, message string) *PodError {
	return &PodError{Namespace: sb.session.namespace, Pod: sb.name, Reason: reason, Message: message}
}

// start brings the worker into the pod, and finds the agent there.
func (sb *sandbox) start(ctx context.Context) error {
	loading := sandboxName
	if sb.session.options.LoaderImage != "" && !sb.session.options.WorkerInImage {
		loading = loaderName
	}
	pod, err := sb.awaitRunning(ctx, loading)
	if err != nil {
		return err
	}
	lines, err := sb.follow(ctx, loading)
	if err != nil {
		return err
	}
	defer func() { _ = lines.Close() }()
	first, err := lines.find(loaderHello, agent.ListensPrefix)
	if err != nil {
		return err
	}
	key, ok := strings.CutPrefix(first, agent.ListensPrefix)
	if !ok { // the worker is not there yet
		if key, err = sb.load(ctx, lines, loading, pod); err != nil {
			return err
		}
	}
	return sb.connect(ctx, pod, key)
}

// connect connects to the pod's agent, which has the key.
func (sb *sandbox) connect(ctx context.Context, pod *corev1.Pod, key string) error {
	var conn net.Conn
	err := retry(ctx, func() (err error) {
		conn, err = sb.session.dialAgent(ctx, pod, key)
		return err
	})
	if err != nil {
		return err
	}
	sb.agent, err = remote.Over(ctx, conn, sb.session.name)
	return err
}

// load sends the worker to the container that waits for it, and returns the key of the agent that it becomes.
func (sb *sandbox) load(ctx context.Context, lines *podLog, container string, pod *corev1.Pod) (key string, err error) {
	if sb.session.options.NodeCache != "" && container == sandboxName {
		sb.session.fillCache(pod.Spec.NodeName)
	}
	if err := sb.session.sendWorker(ctx, sb.name, container); err != nil && !sb.loaded(ctx, container) {
		return "", err
	}
	if container != sandboxName {
		if _, err = sb.awaitRunning(ctx, sandboxName); err != nil {
			return "", err
		}
		if lines, err = sb.follow(ctx, sandboxName); err != nil {
			return "", err
		}
		defer func() { _ = lines.Close() }()
	}
	line, err := lines.find(agent.ListensPrefix)
	return strings.TrimPrefix(line, agent.ListensPrefix), err
}

// awaitRunning waits until a container of the pod runs.
func (sb *sandbox) awaitRunning(ctx context.Context, container string) (*corev1.Pod, error) {
	pod, gone, err := sb.pod.await(ctx, func(pod *corev1.Pod, gone bool) bool {
		switch {
		case gone:
			return true
		case pod == nil:
			return false
		}
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.Name == container && status.State.Running != nil {
				return true
			}
		}
		return false
	})
	if err == nil && gone {
		err = sb.wrong(ReasonDeleted, "it is no more")
	}
	return pod, err
}

// loaded tells whether a loader ended as it does when the worker has arrived. It takes the program that brought the worker with it, and
// what that would have said.
func (sb *sandbox) loaded(ctx context.Context, container string) bool {
	if container != loaderName {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, loadedTime)
	defer cancel()
	exit := int32(-1)
	_, _, _ = sb.pod.await(ctx, func(pod *corev1.Pod, _ bool) bool {
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.Name == container && status.State.Terminated != nil {
				exit = status.State.Terminated.ExitCode
				return true
			}
		}
		return false
	})
	return exit == 0
}

// maxLog bounds what is read of a container's log, in which only the agent and the loader should write.
const maxLog = 256 << 10

// podLog is the log of a container, as it is written.
type podLog struct {
	io.Closer
	lines *bufio.Reader
}

func (sb *sandbox) follow(ctx context.Context, container string) (*podLog, error) {
	var stream io.ReadCloser
	err := retry(ctx, func() (err error) {
		stream, err = sb.session.client.CoreV1().Pods(sb.session.namespace).
			GetLogs(sb.name, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the log of pod %s/%s: %w", sb.session.namespace, sb.name, err)
	}
	return &podLog{Closer: stream, lines: bufio.NewReader(io.LimitReader(stream, maxLog))}, nil
}

// find reads up to a line that begins with one of the prefixes, and returns that line.
func (l *podLog) find(prefixes ...string) (string, error) {
	var last string
	for {
		line, err := l.lines.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" {
			last = line
		}
		switch {
		case err == nil && slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(line, prefix) }):
			return line, nil
		case err != nil:
			return "", fmt.Errorf("the pod's log ends without what should be there, and its last line is %q: %w", last, err)
		}
	}
}

func (sb *sandbox) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	fail := func(err error) (driver.Process, error) {
		return nil, fmt.Errorf("kubernetes: sandbox %s: start the worker: %w", sb.spec.ID, err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	sb.mu.Lock()
	stopped := sb.stopped
	sb.mu.Unlock()
	if stopped {
		return nil, fmt.Errorf("kubernetes: sandbox %s: %w", sb.spec.ID, driver.ErrStopped)
	}
	limits := sb.spec.Limits.Or(sb.spec.Soft)
	if sb.session.options.User != 0 { // whose processes are those of other pods, too
		limits.Processes = 0
	}
	process, err := sb.agent.Start(ctx, remote.Start{
		Env:       slices.Concat(sb.spec.Env, spec.Env),
		OpenFiles: uint64(limits.OpenFiles), Processes: uint64(limits.Processes),
		Lost: sb.lost,
	})
	if err != nil {
		err = sb.explained(ctx, err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		sb.mu.Lock()
		defer sb.mu.Unlock()
		if sb.stopped {
			return fail(driver.ErrStopped)
		}
		return fail(err)
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	sb.process = process
	if sb.stopped {
		_ = process.Kill()
	}
	return process, nil
}

// explained returns why the pod has ended where err is that its log or its connection did, which is often seen first.
func (sb *sandbox) explained(ctx context.Context, err error) error {
	if forward.NotAllowed(err) { // what Open found to be allowed was taken away
		return createFailure(sb.session.namespace, sb.name, err)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, newsTime)
	defer cancel()
	pod, _, noNews := sb.pod.await(ctx, func(pod *corev1.Pod, gone bool) bool { return gone || pod != nil && failure(pod) != nil })
	if noNews != nil || pod == nil {
		return err
	}
	return cmp.Or(failure(pod), err)
}

// lost says how the sandbox ended, where the agent could not tell.
func (sb *sandbox) lost(ctx context.Context) (driver.Exit, error) {
	sb.mu.Lock()
	stopped := sb.stopped
	sb.unknown = stopped
	sb.mu.Unlock()
	if stopped {
		return driver.Exit{Code: -1, Signal: syscall.SIGKILL}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, newsTime)
	defer cancel()
	pod, gone, err := sb.pod.await(ctx, func(pod *corev1.Pod, gone bool) bool { return gone || failure(pod) != nil })
	if err != nil {
		return driver.Exit{}, sb.wrong(ReasonDisconnected, "the connection to it broke, and the cluster has no other news of it than that it is "+string(pod.Status.Phase))
	}
	wrong := failure(pod)
	if ended := sandboxEnd(pod); ended != nil {
		switch {
		case ended.Reason == "OOMKilled" && ended.ExitCode != 0: // else it was one of its children
			return driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}, nil
		case ended.ExitCode == 0 && wrongReason(wrong) == ReasonEnded:
			return driver.Exit{}, sb.wrong(ReasonDisconnected, "the connection to it broke, so its agent ended")
		}
	}
	if wrong == nil && gone {
		wrong = sb.wrong(ReasonDeleted, "it is no more")
	}
	return driver.Exit{}, wrong
}

func wrongReason(err error) string {
	if wrong, ok := errors.AsType[*PodError](err); ok {
		return wrong.Reason
	}
	return ""
}

// Stop has the agent kill all, and the cluster delete the pod. It returns when all is dead, whether or not the cluster has begun with the pod.
func (sb *sandbox) Stop(ctx context.Context) error {
	ctx = sb.session.logged(ctx)
	sb.mu.Lock()
	sb.stopped = true
	process := sb.process
	sb.mu.Unlock()
	sb.session.pods.markDeleted(sb.name)
	select {
	case sb.stopping <- struct{}{}:
		defer func() { <-sb.stopping }()
	case <-ctx.Done():
		return fmt.Errorf("kubernetes: stop sandbox %s: %w", sb.spec.ID, context.Cause(ctx))
	}
	if sb.removed {
		return nil
	}
	dead := sb.kill(ctx, process)
	if sb.claim == "" { // nobody needs to wait for the API server, and what ends too soon is not asked for in vain
		sb.session.discard(sb.name)
	} else if err := sb.delete(ctx); err != nil {
		return fmt.Errorf("kubernetes: stop sandbox %s: %w", sb.spec.ID, err)
	}
	if !dead {
		if _, _, err := sb.pod.await(ctx, func(pod *corev1.Pod, gone bool) bool { return gone || sandboxEnd(pod) != nil }); err != nil {
			return fmt.Errorf("kubernetes: stop sandbox %s: wait for the end of pod %s/%s: %w", sb.spec.ID, sb.session.namespace, sb.name, err)
		}
	}
	sb.removed = true
	sb.session.mu.Lock()
	defer sb.session.mu.Unlock()
	delete(sb.session.sandboxes, sb)
	return nil
}

// kill tells whether all processes of the sandbox are certainly dead.
func (sb *sandbox) kill(ctx context.Context, process driver.Process) (dead bool) {
	defer func() { _ = sb.agent.Close() }()
	if process == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	_ = process.Kill()
	_, err := process.Wait(ctx)
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return err == nil && !sb.unknown
}

// remove deletes the pod of a sandbox that did not come up.
func (sb *sandbox) remove() error {
	if sb.agent != nil {
		_ = sb.agent.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(sb.session.running), requestTime)
	defer cancel()
	return sb.delete(ctx)
}
