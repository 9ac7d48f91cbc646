package kubernetes_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

func TestWarm(t *testing.T) {
	needCluster(t)
	group := schema.GroupVersion{Group: "extensions.agents.x-k8s.io", Version: "v1beta1"}
	if _, err := admin.Discovery().ServerResourcesForGroupVersion(group.String()); err != nil {
		t.Skip("needs kubernetes-sigs/agent-sandbox in the cluster: ", err)
	}
	role, err := makeRole(t.Context(), "rbac-warm.yaml")
	require.NoError(t, err)
	_, err = admin.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "tests", Namespace: namespace}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	session := openSession(t, onCluster(func(o *kubernetes.Options) { o.Warm = 1 }), sbx.MaxSandboxes(4))
	running := func() *corev1.Pod { // the newest that waited for its sandbox
		pods, err := admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{
			LabelSelector: "sandboxfn.github.io/sbx-warm", FieldSelector: "status.phase=Running",
		})
		require.NoError(t, err)
		if len(pods.Items) == 0 {
			return nil
		}
		return &slices.SortedFunc(slices.Values(pods.Items), func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })[0]
	}
	require.Eventually(t, func() bool { return running() != nil }, time.Minute, 50*time.Millisecond, "a pod is kept ready")
	ready := running()
	require.Eventually(t, func() bool {
		log, err := admin.CoreV1().Pods(namespace).GetLogs(ready.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		return err == nil && strings.Contains(string(log), "agent listens")
	}, time.Minute, 50*time.Millisecond, "it has the worker")
	began := time.Now()
	answer, err := session.Function(echo).Call(t.Context(), "warm")
	require.NoError(t, err)
	assert.Equal(t, "warm", answer)
	t.Logf("the first result after %v", time.Since(began).Round(time.Millisecond))
	client, err := dynamic.NewForConfig(account)
	require.NoError(t, err)
	list, err := client.Resource(group.WithResource("sandboxclaims")).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	claimed, _, err := unstructured.NestedString(list.Items[0].Object, "status", "sandbox", "name")
	require.NoError(t, err)
	assert.Equal(t, ready.Name, claimed, "it is the one that was ready")
	require.Eventually(t, func() bool {
		pod := running()
		return pod != nil && pod.Name != claimed
	}, time.Minute, 50*time.Millisecond, "another one is made ready")
	// More than are ready: claims that are told of a pod before it is there.
	var calls []*sbx.Call[string]
	for range 4 {
		calls = append(calls, session.Function(wait).Spawn(t.Context(), 5*time.Second))
	}
	for _, call := range calls {
		answer, err := call.Result(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "waited", answer)
	}
	require.NoError(t, session.Close())

	for _, resource := range []string{"sandboxclaims", "sandboxwarmpools", "sandboxtemplates"} {
		require.Eventually(t, func() bool {
			list, err := client.Resource(group.WithResource(resource)).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			return len(list.Items) == 0
		}, soon, 50*time.Millisecond, resource)
	}
}
