//go:build !sbxworker

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
)

// watch knows the session's pods. One informer feeds it.
type watch struct {
	stray  func(name string)              // called for pods that nobody expects
	warm   func(name string, o *observed) // called for pods that wait for their sandbox
	logger *slog.Logger

	mu   sync.Mutex
	pods map[string]*observed // by name: those that are expected or there
	last time.Time            // when one went
}

// observed is what is known of a pod.
type observed struct {
	mu      sync.Mutex
	pod     *corev1.Pod   // the last state; nil before the first
	gone    bool          // it was deleted, and is no more
	deleted bool          // this session has it deleted
	asked   bool          // it has asked the API server for that, or does
	changed chan struct{} // closed by the next change
}

// state returns the last state, and what tells of the next.
func (o *observed) state() (pod *corev1.Pod, gone bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pod, o.gone, o.changed
}

// isAsked tells whether the API server has been asked to delete the pod, or is being asked.
func (o *observed) isAsked() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

// await returns the first state of the pod for which until is true. pod is nil before the pod has been seen.
func (o *observed) await(ctx context.Context, until func(pod *corev1.Pod, gone bool) bool) (*corev1.Pod, bool, error) {
	for {
		pod, gone, changed := o.state()
		if until(pod, gone) {
			return pod, gone, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return pod, gone, context.Cause(ctx)
		}
	}
}

func newWatch(stray func(name string), warm func(name string, o *observed), logger *slog.Logger) *watch {
	return &watch{stray: stray, warm: warm, logger: logger, pods: map[string]*observed{}}
}

// ordinary reports whether a watch that ended so just begins again. Servers end each of them after a while.
func ordinary(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}

// start returns when the watch works, which is until running ends.
func (w *watch) start(ctx, running context.Context, list cache.ListerWatcher, tasks *sync.WaitGroup) error {
	informer := cache.NewSharedIndexInformer(list, &corev1.Pod{}, 0, nil)
	refused := make(chan error, 1)
	var trouble atomic.Pointer[error] // the last
	handler := func(ctx context.Context, r *cache.Reflector, err error) {
		if !ordinary(err) && ctx.Err() == nil {
			// Once, though it is tried again all the time. Nobody else tells of it.
			if last := trouble.Swap(&err); last == nil || (*last).Error() != err.Error() {
				w.logger.Warn("the cluster does not tell of the session's pods", "err", err)
			}
		}
		if forward.NotAllowed(err) {
			select {
			case refused <- err:
			default:
			}
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.observe(object, false) },
		UpdateFunc: func(_, object any) { w.observe(object, false) },
		DeleteFunc: func(object any) { w.observe(object, true) },
	})
	if err := errors.Join(err, informer.SetTransform(withoutFields), informer.SetWatchErrorHandlerWithContext(handler)); err != nil {
		return err
	}
	tasks.Go(func() { informer.RunWithContext(running) })
	select {
	case <-informer.HasSyncedChecker().Done():
		return nil
	case err := <-refused:
		return err
	case <-ctx.Done():
		if err := trouble.Load(); err != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), *err)
		}
		return context.Cause(ctx)
	}
}

// withoutFields drops what is long and of no use here.
func withoutFields(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		pod.ManagedFields = nil
	}
	return object, nil
}

// expect announces a pod, before it is made.
func (w *watch) expect(name string) *observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.add(name)
}

// add is called with mu held.
func (w *watch) add(name string) *observed {
	o := &observed{changed: make(chan struct{})}
	w.pods[name] = o
	return o
}

// known returns what is known of a pod that somebody else makes.
func (w *watch) known(name string) *observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.pods[name]
	if o == nil {
		o = w.add(name)
	}
	return o
}

// forget ends expect for a pod that was not made. One that appears nevertheless is a stray.
func (w *watch) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.pods[name]; o != nil {
		if pod, _, _ := o.state(); pod == nil {
			delete(w.pods, name)
		}
	}
}

func (w *watch) observe(object any, gone bool) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.pods[pod.Name]
	switch {
	case gone:
		delete(w.pods, pod.Name)
		w.last = time.Now()
	case o == nil:
		o = w.add(pod.Name)
		if pod.Labels[warmLabel] == "" {
			w.stray(pod.Name)
		}
	}
	if o == nil {
		return
	}
	// A claim may have told of it before. Before its state is known, so that who waits for that finds what is begun here.
	if first, _, _ := o.state(); first == nil && !gone && pod.Labels[warmLabel] != "" {
		w.warm(pod.Name, o)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pod, o.gone = pod, gone
	close(o.changed)
	o.changed = make(chan struct{})
}

// left are the pods that are there or expected, by name.
func (w *watch) left() map[string]*observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.pods)
}

// markDeleted notes that this session has a pod deleted, of which the cluster may not have told yet.
func (w *watch) markDeleted(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.pods[name]; o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.deleted = true
	}
}

// noteAsked notes whether the API server has been asked to delete a pod.
func (w *watch) noteAsked(name string, asked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.pods[name]; o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.asked = asked
		close(o.changed)
		o.changed = make(chan struct{})
	}
}

// unasked are the pods that are there or expected, and of which the API server has not been asked that it delete them, by name.
func (w *watch) unasked() (names []string) {
	for name, o := range w.left() {
		if !o.isAsked() {
			names = append(names, name)
		}
	}
	return names
}

// ending are the pods that this session has deleted and that are still there, and when the last one went.
func (w *watch) ending() (ending []*observed, last time.Time) {
	for _, o := range w.left() {
		o.mu.Lock()
		if o.deleted && !o.gone {
			ending = append(ending, o)
		}
		o.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return ending, w.last
}

// awaitNone waits until no pods are left, and returns the names of those that are if ctx ends first, or if a request to delete one has failed.
func (w *watch) awaitNone(ctx context.Context) ([]string, error) {
	for {
		left := w.left()
		for _, name := range slices.Sorted(maps.Keys(left)) {
			o := left[name]
			_, gone, err := o.await(ctx, func(_ *corev1.Pod, gone bool) bool { return gone || !o.isAsked() })
			if err != nil || !gone {
				return slices.Sorted(maps.Keys(w.left())), err
			}
		}
		if len(left) == 0 {
			return nil, nil
		}
	}
}
