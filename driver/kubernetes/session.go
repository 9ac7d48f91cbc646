//go:build !sbxworker

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
	"github.com/sandboxfn/sbx/internal/agent"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

type session struct {
	*cluster
	options  Options
	spec     driver.SessionSpec
	identity agent.Identity // that agents know
	report   driver.Report

	logger  klog.Logger // of client-go: see logged
	client  kubeclient.Interface
	dynamic dynamic.Interface
	worker  *workerFile

	name   string // of the lease, and the beginning of those of pods
	lease  types.UID
	ahead  time.Duration // of the cluster's clock before this machine's
	denied bool          // there is a NetworkPolicy

	running context.Context // of the tasks, until cancel
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	pods    *watch

	ending context.Context // of the Creates, until end
	end    context.CancelFunc

	closing sync.Mutex // while the session is closed
	settled bool       // it is; guarded by closing

	mu        sync.Mutex
	closed    bool
	ownerless bool // its Lease was deleted, and the cluster deletes each pod that is made
	serial    int
	creating  sync.WaitGroup // Creates that have begun
	sandboxes map[*sandbox]struct{}
	filled    map[string]bool  // nodes that keep the worker, or should
	loads     map[string]*load // of pods that wait for their sandbox, by name
}

func open(ctx context.Context, options Options, spec driver.SessionSpec) (_ driver.Session, err error) {
	unavailable := func(err error, remedies ...string) error {
		return fmt.Errorf("kubernetes: open session %s: %w", spec.ID, &driver.UnavailableError{Driver: Name, Err: err, Remedies: remedies})
	}
	cluster, err := findCluster(options, spec.Logger)
	if err != nil {
		return nil, unavailable(err, "name a kubeconfig file in KUBECONFIG or Options.Kubeconfig, and a context in Options.Context")
	}
	s := &session{cluster: cluster, options: options, spec: spec, sandboxes: map[*sandbox]struct{}{}, filled: map[string]bool{}, loads: map[string]*load{}, cancel: func() {}}
	s.logger = logr.FromSlogHandler(quiet{spec.Logger.Handler()})
	ctx = s.logged(ctx)
	s.ending, s.end = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	path, err := spec.Worker(ctx, driver.Platform{OS: "linux", Arch: options.Arch, Alone: true})
	if err != nil {
		return nil, err
	}
	if s.worker, err = openWorker(path); err != nil {
		return nil, fmt.Errorf("kubernetes: open session %s: read the worker: %w", spec.ID, err)
	}
	if s.identity, err = agent.NewIdentity(); err != nil {
		return nil, fmt.Errorf("kubernetes: open session %s: %w", spec.ID, err)
	}
	if s.client, err = kubeclient.NewForConfig(s.config); err != nil {
		return nil, unavailable(err, "mend the kubeconfig")
	}
	if s.dynamic, err = dynamic.NewForConfig(s.config); err != nil {
		return nil, unavailable(err, "mend the kubeconfig")
	}
	if err := s.checkRules(ctx); err != nil {
		// Everybody whom the server knows may ask.
		if forward.NotAllowed(err) {
			return nil, unavailable(err, "log in again, or renew the token in the kubeconfig: the API server does not know this user", "name another context in Options.Context")
		}
		if _, away := errors.AsType[*url.Error](err); away {
			return nil, unavailable(err, "see whether kubectl get pods -n "+s.namespace+" answers", "name another kubeconfig file in KUBECONFIG, or another context of it in Options.Context")
		}
		return nil, unavailable(err, bindRole+" in the namespace "+s.namespace)
	}
	if err := s.makeLease(ctx); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, unavailable(err, "make the namespace: kubectl create namespace "+s.namespace, "name another one in Options.Namespace")
		}
		return nil, unavailable(err, "see whether kubectl get leases -n "+s.namespace+" answers", bindRole)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.running, s.cancel = running, cancel
	s.tasks.Go(func() { s.renew(running) })
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(unavailable(err), s.removeLease())
	}
	s.report = s.makeReport()
	return s, nil
}

// prepare watches the session's pods, and does what needs the lease.
func (s *session) prepare(ctx context.Context) error {
	s.pods = newWatch(s.discard, s.loadWarm, s.spec.Logger)
	list := cache.NewFilteredListWatchFromClient(s.client.CoreV1().RESTClient(), "pods", s.namespace, func(o *metav1.ListOptions) {
		o.LabelSelector = leaseLabel + "=" + s.name
	})
	if err := s.pods.start(ctx, s.running, list, &s.tasks); err != nil {
		return fmt.Errorf("watch the session's pods: %w", err)
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	if err := s.denyNetwork(ctx); err != nil {
		return err
	}
	return s.keepWarm(ctx)
}

// release frees what the session holds on this machine.
func (s *session) release() {
	s.cancel()
	s.tasks.Wait()
	if s.worker != nil {
		_ = s.worker.file.Close()
	}
	s.connections.close()
}

// removeLease deletes the lease, and leaves it to the cluster to delete what it owns.
func (s *session) removeLease() error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	return s.deleteLease(ctx, s.name, metav1.Preconditions{UID: &s.lease})
}

// logged returns a context with which client-go logs what it has to say to the session's logger, and not to standard error.
func (s *session) logged(ctx context.Context) context.Context { return klog.NewContext(ctx, s.logger) }

// quiet logs client-go's errors as details. What fails is told by who asked for it, or by the watch; the rest is said of connections and answers that
// the session itself has ended, as in each Close.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelError {
		record.Level = slog.LevelDebug
	}
	if !q.Enabled(ctx, record.Level) { // logr asks that of no error
		return nil
	}
	return q.Handler.Handle(ctx, record)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func (s *session) Report() driver.Report { return s.report }

func (s *session) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	fail := func(err error) (driver.Sandbox, error) {
		return nil, fmt.Errorf("kubernetes: create sandbox %s: %w", spec.ID, err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.report.Check(spec.Limits); err != nil {
		return fail(err)
	}
	if err := driver.NoMounts(Name, "its sandboxes are on other machines, which don't have this one's files", spec.Mounts); err != nil {
		return fail(err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fail(fmt.Errorf("session is %w", driver.ErrStopped))
	}
	if s.ownerless {
		s.mu.Unlock()
		return fail(fmt.Errorf("the session's Lease %s/%s was deleted, and no pod stays without it; open another session", s.namespace, s.name))
	}
	s.serial++
	name := fmt.Sprintf("%s-%d", s.name, s.serial)
	s.creating.Add(1)
	s.mu.Unlock()
	defer s.creating.Done()

	sb, err := s.newSandbox(s.logged(ctx), name, spec)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return fail(err)
	}
	return sb, nil
}

// Close stops the sandboxes, joins Creates that have begun, and waits until the cluster has nothing of the session any more.
func (s *session) Close(ctx context.Context) error {
	ctx = s.logged(ctx)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.creating.Wait()
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.sandboxes))
	s.mu.Unlock()
	if err := driver.StopAll(ctx, left); err != nil {
		return err
	}
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.settled {
		return nil
	}
	if err := s.endWarm(ctx); err != nil {
		return fmt.Errorf("kubernetes: close session %s: %w", s.spec.ID, err)
	}
	for left := true; left; {
		if err := s.deleteLeft(ctx); err != nil {
			return fmt.Errorf("kubernetes: close session %s: %w", s.spec.ID, err)
		}
		names, err := s.pods.awaitNone(ctx)
		if err != nil {
			return fmt.Errorf("kubernetes: close session %s: the pods %s in %s are still there: %w", s.spec.ID, strings.Join(names, ", "), s.namespace, err)
		}
		left = len(names) > 0 // what a discard asked for was refused meanwhile; what comes of the next try is told
	}
	if err := s.allowNetwork(ctx); err != nil {
		return fmt.Errorf("kubernetes: close session %s: %w", s.spec.ID, err)
	}
	if err := s.deleteLease(ctx, s.name, metav1.Preconditions{UID: &s.lease}); err != nil {
		return fmt.Errorf("kubernetes: close session %s: %w", s.spec.ID, err)
	}
	s.release()
	s.settled = true
	return nil
}

// deletePod has the cluster end a pod.
func (s *session) deletePod(ctx context.Context, name string) error {
	s.pods.markDeleted(name)
	s.pods.noteAsked(name, true)
	err := retry(ctx, func() error {
		return s.client.CoreV1().Pods(s.namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))})
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	s.pods.noteAsked(name, false)
	return fmt.Errorf("delete pod %s/%s: %w", s.namespace, name, err)
}

// deleteLeft has the cluster end all pods of which it was not asked that yet: whose end failed before, or that waited for a sandbox.
func (s *session) deleteLeft(ctx context.Context) error {
	var requests sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, name := range s.pods.unasked() {
		requests.Go(func() {
			if err := s.deletePod(ctx, name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	requests.Wait()
	return errors.Join(errs...)
}

// discard has the cluster end a pod that nobody waits for. What fails is tried again by Close.
func (s *session) discard(name string) {
	s.tasks.Go(func() {
		if err := s.deletePod(s.running, name); err != nil && s.running.Err() == nil {
			s.spec.Logger.Warn("a pod that nobody needs could not be deleted", "err", err)
		}
	})
}

// events returns the warnings about a pod; none if this user may not see them.
func (s *session) events(ctx context.Context, pod string) []corev1.Event {
	list, err := s.client.CoreV1().Events(s.namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Pod,involvedObject.name=" + pod + ",type=" + corev1.EventTypeWarning,
	})
	if err != nil {
		return nil
	}
	return list.Items
}
