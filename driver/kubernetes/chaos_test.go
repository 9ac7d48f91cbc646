package kubernetes_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// soon is how long the news of a sandbox's end may take.
const soon = 15 * time.Second

// openSession opens a session whose end leaves nothing.
func openSession(t *testing.T, d driver.Driver, options ...sbx.OpenOption) *sbx.Session {
	t.Helper()
	session, err := sbx.Open(t.Context(), append([]sbx.OpenOption{
		sbx.Driver(d), sbx.MaxSandboxes(2), sbx.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, session.Close())
		nothingLeft(t)
	})
	return session
}

// begin starts a call that waits, and returns when its function has begun, with the pod that it is in.
func begin(t *testing.T, session *sbx.Session) (*sbx.Call[string], *corev1.Pod) {
	t.Helper()
	call := session.Function(wait, sbx.Timeout(5*time.Minute)).Spawn(t.Context(), time.Hour)
	for {
		select {
		case <-call.Done():
			_, err := call.Result(t.Context())
			t.Fatal("the call ended: ", err)
		case <-time.After(50 * time.Millisecond):
		}
		if call.Sandbox() == "" {
			continue
		}
		pods, err := admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "sandboxfn.github.io/sbx-sandbox=" + call.Sandbox()})
		require.NoError(t, err)
		if len(pods.Items) == 1 {
			return call, &pods.Items[0]
		}
	}
}

// lost is the error of a call whose sandbox was lost, within the time that it may take.
func lost(t *testing.T, call *sbx.Call[string], within time.Duration) *sbx.CallError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	_, err := call.Result(ctx)
	require.NoError(t, ctx.Err(), "the loss was not noticed within %v", within)
	t.Logf("noticed after %v: %v", time.Since(began).Round(time.Millisecond), err)
	_, ok := errors.AsType[*sbx.SandboxLostError](err)
	require.True(t, ok, "%v", err)
	failed, ok := errors.AsType[*sbx.CallError](err)
	require.True(t, ok)
	return failed
}

// reason is the PodError's in err.
func reason(t *testing.T, err error) string {
	t.Helper()
	wrong, ok := errors.AsType[*kubernetes.PodError](err)
	require.True(t, ok, "%v", err)
	return wrong.Reason
}

func TestUnchangedProgram(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil), sbx.Env("PLAIN", "1"), sbx.Secret("TOKEN", sbx.SecretFunc(func(context.Context) (string, error) { return "hidden", nil })))
	answer, err := session.Function(echo).Call(t.Context(), "hello")
	require.NoError(t, err)
	assert.Equal(t, "hello", answer)

	seen, err := session.Function(look).Call(t.Context(), "")
	require.NoError(t, err)
	assert.Greater(t, seen.User, 1<<20)
	assert.ElementsMatch(t, []string{"PLAIN=1", "TOKEN=hidden"}, seen.Environment)
	assert.True(t, seen.Unwritable, "the root can't be written")
	assert.Equal(t, "0000000000000000", seen.Status["CapEff"])
	assert.Equal(t, "0000000000000000", seen.Status["CapBnd"])
	assert.Equal(t, "1", seen.Status["NoNewPrivs"])
	assert.Equal(t, "2", seen.Status["Seccomp"])

	pods, err := admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, pods.Items)
	text, err := json.Marshal(pods.Items)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "hidden", "a secret is in the cluster's objects")

	output, err := session.Sandbox().Command("/bin/sh", "-c", "echo $PLAIN; id -u").Output()
	require.NoError(t, err)
	assert.Regexp(t, `^1\n[0-9]+\n$`, string(output))
}

func TestPodDeleted(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil))
	call, pod := begin(t, session)
	require.NoError(t, admin.CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}))
	err := lost(t, call, soon)
	assert.Equal(t, kubernetes.ReasonDeleted, reason(t, err))
	answer, again := session.Function(echo).Call(t.Context(), "on")
	require.NoError(t, again, "the session goes on")
	assert.Equal(t, "on", answer)
}

func TestPodEvicted(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil))
	call, pod := begin(t, session)
	require.NoError(t, admin.CoreV1().Pods(namespace).EvictV1(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: namespace}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))},
	}))
	assert.Equal(t, "EvictionByEvictionAPI", reason(t, lost(t, call, soon)))
}

func TestOutOfMemory(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil), sbx.Limit(sbx.Resources{MemoryMiB: 256}),
		sbx.Lease(2*time.Minute)) // on a busy node it may take long until the kernel gives up
	_, err := session.Function(fill).Call(t.Context(), 1024)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	n, err := session.Function(fill).Call(t.Context(), 10)
	require.NoError(t, err)
	assert.Equal(t, 10, n)
}

func TestLifetimeEnds(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.MaxLifetime = 15 * time.Second }))
	call, _ := begin(t, session)
	assert.Equal(t, "DeadlineExceeded", reason(t, lost(t, call, 15*time.Second+soon)))
}

func TestUnschedulable(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.MaxPending = 2 * time.Second }), sbx.Limit(sbx.Resources{CPUs: 5000}))
	_, err := session.Function(echo).Call(t.Context(), "")
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err))
	assert.ErrorContains(t, err, "nsufficient cpu", "the scheduler's own words")
}

// cordon keeps all nodes from getting further pods, or ends that.
func cordon(t *testing.T, on bool) {
	nodes, err := admin.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, node := range nodes.Items {
		_, err := admin.CoreV1().Nodes().Patch(context.Background(), node.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on), metav1.PatchOptions{})
		require.NoError(t, err)
	}
}

func TestPodsEndedWhileTheyStart(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil), sbx.MaxSandboxes(1))
	t.Cleanup(func() { cordon(t, false) })
	cordon(t, true) // so that they start for as long as it takes
	call := session.Function(echo).Spawn(t.Context(), "in the third")
	var ended []string
	next := func() string {
		var name string
		require.Eventually(t, func() bool {
			pods, err := admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			for _, pod := range pods.Items {
				if pod.DeletionTimestamp == nil && !slices.Contains(ended, pod.Name) {
					name = pod.Name
				}
			}
			return name != ""
		}, soon, 50*time.Millisecond)
		ended = append(ended, name)
		return name
	}
	require.NoError(t, admin.CoreV1().Pods(namespace).Delete(t.Context(), next(), metav1.DeleteOptions{}))
	err := admin.CoreV1().Pods(namespace).EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: next(), Namespace: namespace}})
	if !apierrors.IsNotFound(err) { // the session, which saw what was to come, had it deleted first
		require.NoError(t, err)
	}
	next()
	cordon(t, false)
	answer, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "in the third", answer)
}

func TestCordoned(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.MaxPending = 2 * time.Second }))
	_, err := session.Function(echo).Call(t.Context(), "")
	require.NoError(t, err)
	t.Cleanup(func() { cordon(t, false) })
	cordon(t, true)
	answer, err := session.Function(echo).Call(t.Context(), "still here")
	require.NoError(t, err, "a sandbox on a cordoned node goes on")
	assert.Equal(t, "still here", answer)
	_, err = session.Function(echo, sbx.Env("ANOTHER", "1")).Call(t.Context(), "")
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err))
	assert.ErrorContains(t, err, "unschedulable")
}

func TestQuota(t *testing.T) {
	needCluster(t)
	_, err := admin.CoreV1().ResourceQuotas(namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: quantity("1")}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, admin.CoreV1().ResourceQuotas(namespace).Delete(context.Background(), "one", metav1.DeleteOptions{}))
	})
	require.Eventually(t, func() bool { // until then it does not count
		quota, err := admin.CoreV1().ResourceQuotas(namespace).Get(t.Context(), "one", metav1.GetOptions{})
		return err == nil && !quota.Status.Hard.Pods().IsZero()
	}, soon, 50*time.Millisecond)
	one := openSession(t, onCluster(nil), sbx.MaxSandboxes(1))
	fresh := one.Function(echo, sbx.MaxUses(1))
	for range 3 {
		_, err := fresh.Call(t.Context(), "")
		require.NoError(t, err, "a pod that is ending is waited for")
	}
	require.NoError(t, one.Close())
	session := openSession(t, onCluster(nil))
	call, _ := begin(t, session)
	_, err = session.Function(echo, sbx.Env("ANOTHER", "1")).Call(t.Context(), "")
	assert.Equal(t, kubernetes.ReasonQuota, reason(t, err))
	call.Cancel()
}

func TestNoShell(t *testing.T) {
	needCluster(t)
	session := openSession(t, onCluster(nil), sbx.Image(images.bare))
	_, err := session.Function(echo).Call(t.Context(), "")
	wrong, ok := errors.AsType[*driver.ImageError](err)
	require.True(t, ok, "%v", err)
	assert.Contains(t, strings.Join(wrong.Remedies, ""), "LoaderImage")

	require.NoError(t, session.Close())
	session = openSession(t, onCluster(func(o *kubernetes.Options) { o.LoaderImage = images.one }), sbx.Image(images.bare))
	answer, err := session.Function(echo).Call(t.Context(), "without a shell")
	require.NoError(t, err)
	assert.Equal(t, "without a shell", answer)
}

func TestNotAllowed(t *testing.T) {
	needCluster(t)
	nobody, err := makeAccount(t.Context(), account, "nobody", "")
	require.NoError(t, err)
	_, err = sbx.Open(t.Context(), sbx.Driver(onCluster(func(o *kubernetes.Options) { o.Config = nobody })))
	unavailable, ok := errors.AsType[*driver.UnavailableError](err)
	require.True(t, ok, "%v", err)
	assert.ErrorContains(t, err, "create pods, delete pods")
	assert.Contains(t, strings.Join(unavailable.Remedies, ""), "rbac.yaml")
}

// clientVariable makes the test binary a program whose session is killed.
const clientVariable = "SBX_TEST_CLIENT"

func TestProgramKilled(t *testing.T) {
	needCluster(t)
	if os.Getenv(clientVariable) != "" {
		session, err := sbx.Open(t.Context(), sbx.Driver(onCluster(nil)))
		require.NoError(t, err)
		_, pod := begin(t, session)
		fmt.Println("\nbegun", pod.Name, pod.Namespace)
		select {}
	}
	program := exec.Command("/proc/self/exe", "-test.run", "^TestProgramKilled$", "-test.v")
	program.Env = append(os.Environ(), clientVariable+"=1")
	out, err := program.StdoutPipe()
	require.NoError(t, err)
	program.Stderr = t.Output()
	require.NoError(t, program.Start())
	var name, in string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), "begun %s %s", &name, &in); n == 2 {
			break
		}
	}
	require.NotEmpty(t, name)
	defer func() { _ = admin.CoreV1().Namespaces().Delete(context.Background(), in, metav1.DeleteOptions{}) }()
	require.NoError(t, program.Process.Kill())
	_ = program.Wait()

	began := time.Now()
	require.Eventually(t, func() bool {
		pod, err := admin.CoreV1().Pods(in).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodSucceeded
	}, soon, 100*time.Millisecond, "the pod ends by itself")
	t.Logf("the pod had ended after %v", time.Since(began).Round(time.Millisecond))

	// Five minutes pass.
	leases, err := admin.CoordinationV1().Leases(in).List(t.Context(), metav1.ListOptions{LabelSelector: "sandboxfn.github.io/sbx-lease"})
	require.NoError(t, err)
	require.Len(t, leases.Items, 1)
	past := metav1.NewMicroTime(leases.Items[0].Spec.RenewTime.Add(-time.Hour))
	leases.Items[0].Spec.RenewTime = &past
	_, err = admin.CoordinationV1().Leases(in).Update(t.Context(), &leases.Items[0], metav1.UpdateOptions{})
	require.NoError(t, err)
	next, err := sbx.Open(t.Context(), sbx.Driver(kubernetes.New(&kubernetes.Options{Namespace: in})))
	require.NoError(t, err)
	require.NoError(t, next.Close())
	require.Eventually(t, func() bool {
		pods, err := admin.CoreV1().Pods(in).List(t.Context(), metav1.ListOptions{})
		return err == nil && !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Name == name })
	}, time.Minute, 100*time.Millisecond, "the next session sees to it that nothing is left")
}

// ended waits until a pod has ended, or is gone.
func ended(t *testing.T, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		pod, err := admin.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
	}, time.Minute, 100*time.Millisecond, "nobody ended the pod")
}
