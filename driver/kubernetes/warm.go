//go:build !sbxworker

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/internal/agent/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What agent-sandbox has of a session: pods of one template are kept ready by a pool, and a claim takes one of them. Its few fields that are used here are
// written out, for its module would bring all that its controllers need.
var (
	warmGroup = schema.GroupVersion{Group: "extensions.agents.x-k8s.io", Version: "v1beta1"}
	templates = warmGroup.WithResource("sandboxtemplates")
	pools     = warmGroup.WithResource("sandboxwarmpools")
	claims    = warmGroup.WithResource("sandboxclaims")
)

// isWarm tells whether the pods that are kept ready are what a sandbox asks for.
func (s *session) isWarm(spec driver.Spec) bool {
	return s.options.Warm > 0 && spec.Limits == driver.Resources{} && spec.Soft == driver.Resources{} && len(spec.Tags) == 0 &&
		s.image(spec) == s.options.Image
}

// warmObject is an object of the session's.
func (s *session) warmObject(kind, name string, spec map[string]any) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetAPIVersion(warmGroup.String())
	object.SetKind(kind)
	object.SetName(name)
	object.SetLabels(map[string]string{leaseLabel: s.name})
	object.SetOwnerReferences([]metav1.OwnerReference{s.owner()})
	return object
}

func (s *session) createWarm(ctx context.Context, resource schema.GroupVersionResource, object *unstructured.Unstructured) error {
	err := retry(ctx, func() error {
		_, err := s.dynamic.Resource(resource).Namespace(s.namespace).Create(ctx, object, metav1.CreateOptions{})
		return err
	})
	if apierrors.IsAlreadyExists(err) { // an answer was lost
		return nil
	}
	return err
}

func (s *session) deleteWarm(ctx context.Context, resource schema.GroupVersionResource, name string) error {
	return retry(ctx, func() error {
		return s.dynamic.Resource(resource).Namespace(s.namespace).Delete(ctx, name, metav1.DeleteOptions{})
	})
}

// keepWarm has the cluster keep pods ready.
func (s *session) keepWarm(ctx context.Context) error {
	if s.options.Warm == 0 {
		return nil
	}
	pod, err := s.podFor("", driver.Spec{}, s.worker.size)
	if err != nil {
		return err
	}
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod.Spec)
	if err != nil {
		return err
	}
	labels, notes := map[string]any{}, map[string]any{}
	for key, value := range pod.Labels {
		labels[key] = value
	}
	for key, value := range pod.Annotations {
		notes[key] = value
	}
	template := s.warmObject("SandboxTemplate", s.name, map[string]any{
		"podTemplate":             map[string]any{"metadata": map[string]any{"labels": labels, "annotations": notes}, "spec": spec},
		"networkPolicyManagement": "Unmanaged", // the session has one
	})
	pool := s.warmObject("SandboxWarmPool", s.name, map[string]any{
		"replicas": int64(s.options.Warm), "sandboxTemplateRef": map[string]any{"name": s.name},
	})
	if err := errors.Join(s.createWarm(ctx, templates, template), s.createWarm(ctx, pools, pool)); err != nil {
		return fmt.Errorf("keep pods ready (Options.Warm), which needs agent-sandbox in the cluster and the Role of driver/kubernetes/rbac-warm.yaml: %w", err)
	}
	return nil
}

// endWarm gives up what keepWarm asked for. The cluster would do so too, but later.
func (s *session) endWarm(ctx context.Context) error {
	if s.options.Warm == 0 {
		return nil
	}
	for _, resource := range []schema.GroupVersionResource{pools, templates} {
		if err := s.deleteWarm(ctx, resource, s.name); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the %s %s: %w", resource.Resource, s.name, err)
		}
	}
	return nil
}

// load is what is done for a pod that waits for its sandbox.
type load struct {
	done  chan struct{}
	agent *remote.Agent // in the pod; read after done, as is:
	err   error
}

// loadWarm sends the worker to a pod that waits for its sandbox, if the pod needs that, and connects to the agent, so that the sandbox finds all there. What
// nobody takes it gives up when the pod is gone, or the session ends.
func (s *session) loadWarm(name string, pod *observed) {
	l := &load{done: make(chan struct{})}
	s.mu.Lock()
	s.loads[name] = l
	s.mu.Unlock()
	s.tasks.Go(func() {
		sb := &sandbox{session: s, name: name, pod: pod}
		l.err = sb.prepareWarm(s.running)
		l.agent = sb.agent
		close(l.done)
		err := l.err
		if err == nil {
			err = sb.awaitNoUse(l.agent)
		}
		if s.takeLoad(name) == nil {
			return // a sandbox has it
		}
		if l.agent != nil {
			_ = l.agent.Close()
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if _, gone, _ := pod.state(); err != nil && !gone && !closed { // who keeps pods ready can't know that it is of no use
			s.spec.Logger.Warn("a pod that was to be ready is not, and is deleted", "pod", name, "namespace", s.namespace, "err", err)
			s.discard(name)
		}
	})
}

// awaitNoUse waits until a pod is gone, its agent is, or the session ends; only the second is an error.
func (sb *sandbox) awaitNoUse(agent *remote.Agent) error {
	for {
		_, gone, changed := sb.pod.state()
		if gone {
			return nil
		}
		select {
		case <-changed:
		case <-agent.Ended():
			return errAgentGone
		case <-sb.session.running.Done():
			return nil
		}
	}
}

var errAgentGone = errors.New("the connection to its agent broke")

// takeLoad returns what was done for a pod, to the first who asks; nil to all others.
func (s *session) takeLoad(name string) *load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.loads[name]
	delete(s.loads, name)
	return l
}

func (sb *sandbox) prepareWarm(ctx context.Context) error {
	pod, err := sb.awaitRunning(ctx, sandboxName) // which may take as long as the cluster has no room
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, loadTime, sb.wrong(ReasonSlow, fmt.Sprintf("it has not had the worker within %v", loadTime)))
	defer cancel()
	lines, err := sb.follow(ctx, sandboxName)
	if err != nil {
		return err
	}
	defer func() { _ = lines.Close() }()
	line, err := lines.find(loaderHello, agent.ListensPrefix)
	if err == nil && line == loaderHello {
		if err = sb.session.sendWorker(ctx, sb.name, sandboxName); err == nil {
			line, err = lines.find(agent.ListensPrefix)
		}
	}
	if err != nil {
		return err
	}
	return sb.connect(ctx, pod, strings.TrimPrefix(line, agent.ListensPrefix))
}

// startWarm takes the agent in a pod that was ready.
func (sb *sandbox) startWarm(ctx context.Context) error {
	if _, err := sb.awaitRunning(ctx, sandboxName); err != nil {
		return err
	}
	sb.session.mu.Lock()
	l := sb.session.loads[sb.name]
	sb.session.mu.Unlock()
	if l != nil {
		select {
		case <-l.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l.err != nil { // takeLoad may have given it to loadWarm by now
			return l.err
		}
		l = sb.session.takeLoad(sb.name)
	}
	if l == nil {
		return sb.wrong(ReasonDeleted, "it is no more")
	}
	sb.agent = l.agent
	return nil
}

// claimPod takes one of the pods that are ready, or one that is made now.
func (sb *sandbox) claimPod(ctx context.Context) error {
	s := sb.session
	ctx, cancel := context.WithTimeoutCause(ctx, s.options.MaxPending, sb.wrong(ReasonSlow, "the claim got no pod in time"))
	defer cancel()
	claim := s.warmObject("SandboxClaim", sb.claim, map[string]any{
		"warmPoolRef": map[string]any{"name": s.name},
		"lifecycle": map[string]any{
			"shutdownPolicy": "Delete", "shutdownTime": time.Now().Add(s.ahead + s.options.MaxLifetime).UTC().Format(time.RFC3339),
		},
	})
	watching, err := s.dynamic.Resource(claims).Namespace(s.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + sb.claim})
	if err != nil {
		return createFailure(s.namespace, sb.claim, fmt.Errorf("watch the claim: %w", err))
	}
	defer watching.Stop()
	if err := s.createWarm(ctx, claims, claim); err != nil {
		return createFailure(s.namespace, sb.claim, err)
	}
	last := "" // what was said of it
	for {
		select {
		case event, ok := <-watching.ResultChan():
			if !ok {
				return fmt.Errorf("the watch of the claim %s ended", sb.claim)
			}
			object, ok := event.Object.(*unstructured.Unstructured)
			if !ok {
				return fmt.Errorf("watch the claim %s: %w", sb.claim, apierrors.FromObject(event.Object))
			}
			if name, _, _ := unstructured.NestedString(object.Object, "status", "sandbox", "name"); name != "" {
				sb.name = name // as the pod's
				sb.pod = s.pods.known(name)
				return nil
			}
			last = conditions(object)
		case <-ctx.Done():
			err := context.Cause(ctx)
			if wrong, ok := errors.AsType[*PodError](err); ok {
				wrong.Message += ": " + last
			}
			return err
		}
	}
}

// conditions is what an object's conditions say.
func conditions(object *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	var texts []string
	for _, entry := range list {
		if condition, ok := entry.(map[string]any); ok {
			texts = append(texts, fmt.Sprintf("%v: %v", condition["reason"], condition["message"]))
		}
	}
	return strings.Join(texts, "; ")
}
