package kubernetes_test

import (
	"context"
	"log/slog"
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
)

// nodeFolder is where nodes keep the worker in the test.
const nodeFolder = "/tmp/sbx-node-cache-test"

func TestNodesKeepTheWorker(t *testing.T) {
	needCluster(t)
	space := privilegedNamespace(t)
	t.Cleanup(func() { emptyNodeFolder(t, space) })
	inSpace := func(o *kubernetes.Options) { o.Namespace, o.NodeCache = space, nodeFolder }
	open := func() *sbx.Session {
		session, err := sbx.Open(t.Context(), sbx.Driver(onCluster(inSpace)), sbx.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, session.Close()) })
		return session
	}
	session := open()
	_, err := session.Function(echo).Call(t.Context(), "")
	require.NoError(t, err)
	waited := func() bool { // whether the last pod had to wait for the worker
		pods, err := admin.CoreV1().Pods(space).List(t.Context(), metav1.ListOptions{LabelSelector: "sandboxfn.github.io/sbx-sandbox"})
		require.NoError(t, err)
		require.Len(t, pods.Items, 1)
		log, err := admin.CoreV1().Pods(space).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
		require.NoError(t, err)
		return strings.Contains(string(log), "loader waits")
	}
	require.True(t, waited(), "nobody had brought it")
	require.Eventually(t, func() bool {
		pods, err := admin.CoreV1().Pods(space).List(t.Context(), metav1.ListOptions{LabelSelector: "!sandboxfn.github.io/sbx-sandbox"})
		return err == nil && len(pods.Items) == 0
	}, time.Minute, 100*time.Millisecond, "the pod that fills the node's folder ends")
	require.NoError(t, session.Close())

	session = open()
	answer, err := session.Function(echo).Call(t.Context(), "kept")
	require.NoError(t, err)
	assert.Equal(t, "kept", answer)
	assert.False(t, waited(), "the node has it")
	_, err = session.Sandbox().Command("/bin/sh", "-c", "echo evil >/.sbx-cache/worker || echo evil >/.sbx-cache/more").Output()
	require.Error(t, err, "sandboxes can't change it")
}

// privilegedNamespace makes a namespace in which the tests' user may use folders of nodes.
func privilegedNamespace(t *testing.T) string {
	made, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "sbx-test-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, admin.CoreV1().Namespaces().Delete(context.Background(), made.Name, metav1.DeleteOptions{}))
	})
	role, err := admin.RbacV1().Roles(namespace).Get(t.Context(), "sbx", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = admin.RbacV1().Roles(made.Name).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: role.Name}, Rules: role.Rules}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = admin.RbacV1().RoleBindings(made.Name).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "tests", Namespace: namespace}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { // pods need it
		_, err := admin.CoreV1().ServiceAccounts(made.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	}, soon, 50*time.Millisecond)
	return made.Name
}

// emptyNodeFolder removes what the nodes have kept.
func emptyNodeFolder(t *testing.T, space string) {
	ctx, root := context.Background(), int64(0)
	pod, err := admin.CoreV1().Pods(space).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "clean-"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes:       []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}}},
			Containers: []corev1.Container{{
				Name: "clean", Image: images.one, Command: []string{"/bin/sh", "-c", "rm -r /node" + nodeFolder},
				SecurityContext: &corev1.SecurityContext{RunAsUser: &root},
				VolumeMounts:    []corev1.VolumeMount{{Name: "tmp", MountPath: "/node/tmp"}},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pod, err := admin.CoreV1().Pods(space).Get(ctx, pod.Name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodSucceeded
	}, time.Minute, 100*time.Millisecond)
}
