package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/sandboxfn/sbx/internal/measure"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	callSize = 100
	echoPort = 7007
	ours     = "sbx, kubernetes"
)

type bench struct {
	*measure.Run
	*cluster
	sandboxes int // of the parts with many
	kubelets  kubelets
}

func (b *bench) open(ctx context.Context, d driver.Driver, most int) (*sbx.Session, error) {
	return sbx.Open(ctx, sbx.Driver(d), sbx.MaxSandboxes(most), sbx.Logger(slog.New(slog.DiscardHandler)))
}

// calls compares a warm call with an echo, both through the API server.
func (b *bench) calls(ctx context.Context, w *strings.Builder) error {
	pod, err := b.pod(ctx, "nc", "-ll", "-p", strconv.Itoa(echoPort), "-e", "cat")
	if err != nil {
		return err
	}
	conn, err := b.dial(ctx, pod, echoPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	session, err := b.open(ctx, b.driver(nil), 1)
	if err != nil {
		return err
	}
	defer session.Close()
	const raw = "raw echo through a port-forward"
	data, echo := make([]byte, callSize), session.Function(Echo)
	contenders := []measure.Contender{
		{Name: raw, Run: func(_ context.Context, n int) error {
			back := make([]byte, callSize)
			for range n {
				if _, err := conn.Write(data); err != nil {
					return err
				}
				if _, err := io.ReadFull(conn, back); err != nil {
					return err
				}
			}
			return nil
		}},
		{Name: ours, Run: func(ctx context.Context, n int) error {
			for range n {
				if _, err := echo.Call(ctx, data); err != nil {
					return err
				}
			}
			return nil
		}},
	}
	took, err := b.Contest(ctx, contenders)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "One call at a time, with %d bytes there and back.\n\n", callSize)
	measure.Compare(w, contenders, took, time.Microsecond, raw)
	b.AtMost("lone call, "+ours+", by port-forward: to a raw echo's", took[ours]/took[raw], 2)
	return errors.Join(session.Close(), b.discard(ctx, pod))
}

// starts compares a sandbox from nothing to its first result with a bare pod.
func (b *bench) starts(ctx context.Context, w *strings.Builder) error {
	session, err := b.open(ctx, b.driver(nil), 1)
	if err != nil {
		return err
	}
	defer session.Close()
	const ready, sent = "a bare pod, until it is ready", "a bare pod that is sent the worker, too"
	taken := map[string][]float64{}
	for round := range b.Rounds + 1 {
		began := time.Now()
		pod, err := b.pod(ctx, "sleep", "600")
		if err != nil {
			return err
		}
		isReady := time.Since(began)
		packed, err := b.packedWorker()
		if err != nil {
			return err
		}
		sending := time.Now()
		if err := b.send(ctx, pod, packed, "sh", "-c", "gzip -dc >"+memoryDir+"/worker && sha256sum <"+memoryDir+"/worker"); err != nil {
			return err
		}
		isSent := isReady + time.Since(sending)
		if err := b.discard(ctx, pod); err != nil {
			return err
		}
		called, err := b.first(ctx, session)
		if err != nil {
			return err
		}
		if round > 0 { // the first one warms up
			taken[ready], taken[sent], taken[ours] = append(taken[ready], float64(isReady)), append(taken[sent], float64(isSent)), append(taken[ours], float64(called))
		}
	}
	fmt.Fprintf(w, "From nothing to a first result, in a session that is open, in the median of %d.\n\n", b.Rounds)
	b.compare(w, taken, sent, ready, sent, ours)
	b.AtMost("pod to a first result: to a bare pod's and the worker's transfer", measure.Median(taken[ours])/measure.Median(taken[sent]), 1.3)
	return session.Close()
}

// first is how long a call takes whose sandbox starts for it.
func (b *bench) first(ctx context.Context, session *sbx.Session) (time.Duration, error) {
	sandbox := session.Sandbox()
	began := time.Now()
	_, err := session.Function(Empty).In(sandbox).Call(ctx, struct{}{})
	return time.Since(began), errors.Join(err, sandbox.Stop(ctx))
}

func (b *bench) compare(w *strings.Builder, taken map[string][]float64, base string, names ...string) {
	medians := map[string]float64{}
	var contenders []measure.Contender
	for _, name := range names {
		medians[name] = measure.Median(taken[name])
		contenders = append(contenders, measure.Contender{Name: name})
	}
	measure.Compare(w, contenders, medians, time.Millisecond, base)
}

// The kinds of agent-sandbox.
var (
	warm   = schema.GroupVersion{Group: "extensions.agents.x-k8s.io", Version: "v1beta1"}
	claims = warm.WithResource("sandboxclaims")
	pools  = warm.WithResource("sandboxwarmpools")
)

// claims compares a sandbox that was made ready before with a bare claim of such a one.
func (b *bench) claims(ctx context.Context, w *strings.Builder) error {
	if _, err := b.client.Discovery().ServerResourcesForGroupVersion(warm.String()); err != nil {
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%w: no kubernetes-sigs/agent-sandbox in the cluster", measure.ErrLeftOut)
		}
		return err
	}
	session, err := b.open(ctx, b.driver(func(o *kubernetes.Options) { o.Warm = 1 }), 1)
	if err != nil {
		return err
	}
	defer session.Close()
	const bare = "a bare claim, until it is ready"
	taken := map[string][]float64{}
	for round := range b.Rounds + 1 {
		isReady, err := b.claim(ctx)
		if err != nil {
			return err
		}
		if err := b.poolFull(ctx); err != nil {
			return err
		}
		called, err := b.first(ctx, session)
		if err != nil {
			return err
		}
		if round > 0 {
			taken[bare], taken[ours] = append(taken[bare], float64(isReady)), append(taken[ours], float64(called))
		}
	}
	fmt.Fprintf(w, "From a claim of a pod that was ready, to the first result, in the median of %d.\n\n", b.Rounds)
	b.compare(w, taken, bare, bare, ours)
	b.AtMost("warm claim to a first result: to a bare claim's", measure.Median(taken[ours])/measure.Median(taken[bare]), 1.5)
	return session.Close()
}

// loadTime is how long the worker may take into a pod that has become ready, of which agent-sandbox doesn't know.
const loadTime = 3 * time.Second

// poolFull waits until a pod is ready to be claimed, and has the worker.
func (b *bench) poolFull(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	for {
		list, err := b.dynamic.Resource(pools).Namespace(b.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) == 1 {
			if ready, _, _ := unstructured.NestedInt64(list.Items[0].Object, "status", "readyReplicas"); ready > 0 {
				time.Sleep(loadTime)
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// claim is how long a bare claim takes until it is ready.
func (b *bench) claim(ctx context.Context) (time.Duration, error) {
	if err := b.poolFull(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	list, err := b.dynamic.Resource(pools).Namespace(b.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"warmPoolRef": map[string]any{"name": list.Items[0].GetName()}}}}
	object.SetAPIVersion(warm.String())
	object.SetKind("SandboxClaim")
	object.SetGenerateName("bare-")
	all := b.dynamic.Resource(claims).Namespace(b.namespace)
	began := time.Now()
	made, err := all.Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	watching, err := all.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + made.GetName()})
	if err != nil {
		return 0, err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		claim, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			break
		}
		if isReady(claim) {
			return time.Since(began), all.Delete(ctx, made.GetName(), metav1.DeleteOptions{})
		}
	}
	return 0, fmt.Errorf("the claim %s is not ready within %v", made.GetName(), podTime)
}

func isReady(claim *unstructured.Unstructured) bool {
	list, _, _ := unstructured.NestedSlice(claim.Object, "status", "conditions")
	for _, entry := range list {
		if condition, ok := entry.(map[string]any); ok && condition["type"] == "Ready" && condition["status"] == "True" {
			return true
		}
	}
	return false
}
