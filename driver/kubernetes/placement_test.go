package kubernetes_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// briefly has pods for which no node is found fail soon.
func briefly(o *kubernetes.Options) { o.MaxPending = 2 * time.Second }

// podWhere opens a session, makes a call in it, and returns the call's error, and the sandbox's pod if there is none.
func podWhere(t *testing.T, change func(*kubernetes.Options), options ...sbx.OpenOption) (*corev1.Pod, error) {
	t.Helper()
	session := openSession(t, onCluster(func(o *kubernetes.Options) {
		briefly(o)
		change(o)
	}), options...)
	defer func() { require.NoError(t, session.Close()) }()
	call := session.Function(echo).Spawn(t.Context(), "here")
	answer, err := call.Result(t.Context())
	if err != nil {
		return nil, err
	}
	assert.Equal(t, "here", answer)
	return podOf(t, call.Sandbox()), nil
}

// podOf is the pod of a sandbox.
func podOf(t *testing.T, sandbox string) *corev1.Pod {
	t.Helper()
	pods, err := admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "sandboxfn.github.io/sbx-sandbox=" + sandbox})
	require.NoError(t, err)
	require.Equal(t, 1, len(pods.Items)) //nolint:testifylint // Len would print them all
	return &pods.Items[0]
}

// patchNodes changes all nodes, and takes that back when the test ends. subresources is none or "status".
func patchNodes(t *testing.T, patch, back any, subresources ...string) {
	t.Helper()
	apply := func(ctx context.Context, patch any) {
		text, err := json.Marshal(patch)
		require.NoError(t, err)
		nodes, err := admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, nodes.Items)
		for _, node := range nodes.Items {
			_, err := admin.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, text, metav1.PatchOptions{}, subresources...)
			require.NoError(t, err)
		}
	}
	t.Cleanup(func() { apply(context.Background(), back) })
	apply(t.Context(), patch)
}

// object is a part of a patch.
type object = map[string]any

func TestTolerations(t *testing.T) {
	needCluster(t)
	patchNodes(t, object{"spec": object{"taints": []corev1.Taint{{Key: "for", Value: "others", Effect: corev1.TaintEffectNoSchedule}}}},
		object{"spec": object{"taints": nil}})
	_, err := podWhere(t, func(*kubernetes.Options) {})
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err))
	assert.ErrorContains(t, err, "untolerated taint")
	pod, err := podWhere(t, func(o *kubernetes.Options) {
		o.Tolerations = []corev1.Toleration{{Key: "for", Operator: corev1.TolerationOpEqual, Value: "others", Effect: corev1.TaintEffectNoSchedule}}
	})
	require.NoError(t, err)
	assert.NotEmpty(t, pod.Spec.NodeName)
}

func TestNodeSelector(t *testing.T) {
	needCluster(t)
	patchNodes(t, object{"metadata": object{"labels": object{"sbx-test": "this"}}}, object{"metadata": object{"labels": object{"sbx-test": nil}}})
	_, err := podWhere(t, func(o *kubernetes.Options) { o.NodeSelector = map[string]string{"sbx-test": "another"} })
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err))
	assert.ErrorContains(t, err, "node affinity/selector")
	pod, err := podWhere(t, func(o *kubernetes.Options) { o.NodeSelector = map[string]string{"sbx-test": "this"} })
	require.NoError(t, err)
	assert.Equal(t, "this", pod.Spec.NodeSelector["sbx-test"])
	assert.Equal(t, "linux", pod.Spec.NodeSelector[corev1.LabelOSStable], "those of the driver's own stay")
}

// A device that nodes say they have is as good as one that they have: nothing but the count of it is the cluster's.
func TestResources(t *testing.T) {
	needCluster(t)
	const device corev1.ResourceName = "sbx.example.com/gpu"
	patchNodes(t, object{"status": object{"capacity": object{string(device): "2"}}}, object{"status": object{"capacity": object{string(device): nil}}}, "status")
	require.Eventually(t, func() bool { // the kubelet's doing
		nodes, err := admin.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		return nodes.Items[0].Status.Allocatable[device] == quantity("2")
	}, time.Minute, 100*time.Millisecond)
	of := func(n string) func(*kubernetes.Options) {
		return func(o *kubernetes.Options) { o.Resources = corev1.ResourceList{device: quantity(n)} }
	}
	pod, err := podWhere(t, of("2"), sbx.Limit(sbx.Resources{MemoryMiB: 256}))
	require.NoError(t, err)
	assert.Equal(t, quantity("2"), pod.Spec.Containers[0].Resources.Limits[device])
	assert.Equal(t, quantity("2"), pod.Spec.Containers[0].Resources.Requests[device])
	assert.Equal(t, quantity("256Mi"), pod.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory], "beside the sandbox's own limits")
	_, err = podWhere(t, of("3"))
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err))
	assert.ErrorContains(t, err, "Insufficient "+string(device))

	both := openSession(t, onCluster(func(o *kubernetes.Options) {
		briefly(o)
		of("2")(o)
	}))
	begin(t, both)
	_, err = both.Function(echo, sbx.Env("ANOTHER", "1")).Call(t.Context(), "")
	assert.Equal(t, corev1.PodReasonUnschedulable, reason(t, err), "one sandbox has them all")
	pod, err = podWhere(t, func(*kubernetes.Options) {})
	if assert.NoError(t, err, "who asks for none of them needs none") {
		assert.NotContains(t, pod.Spec.Containers[0].Resources.Limits, device)
	}
	require.NoError(t, both.Close())
}

// makeRuntimeClass makes a runtime class for the test, and returns its name.
func makeRuntimeClass(t *testing.T, handler string) string {
	t.Helper()
	made, err := admin.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "sbx-test-"}, Handler: handler,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, admin.NodeV1().RuntimeClasses().Delete(context.Background(), made.Name, metav1.DeleteOptions{}))
	})
	return made.Name
}

func TestRuntimeClass(t *testing.T) {
	needCluster(t)
	with := func(name string) func(*kubernetes.Options) {
		return func(o *kubernetes.Options) { o.RuntimeClass = name }
	}
	class := makeRuntimeClass(t, "runc")
	pod, err := podWhere(t, with(class))
	require.NoError(t, err)
	assert.Equal(t, class, *pod.Spec.RuntimeClassName)

	began := time.Now()
	_, err = podWhere(t, with(makeRuntimeClass(t, "sbx-test-nothing")))
	assert.Equal(t, "FailedCreatePodSandBox", reason(t, err))
	assert.ErrorContains(t, err, "sbx-test-nothing", "the node's own words")
	assert.ErrorContains(t, err, "Options.RuntimeClass")
	assert.Less(t, time.Since(began), soon)

	_, err = podWhere(t, with("sbx-test-no-such-class"))
	assert.Equal(t, "Forbidden", reason(t, err))
	assert.ErrorContains(t, err, "kubectl get runtimeclasses")
}

func TestWhatPodsHave(t *testing.T) {
	needCluster(t)
	_, err := admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "pods"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	patchNodes(t, object{"metadata": object{"labels": object{"sbx-test": "this"}}}, object{"metadata": object{"labels": object{"sbx-test": nil}}})
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Name: "not-this", Labels: map[string]string{"team": "template"}, Annotations: map[string]string{"note": "template", "kept": "template"},
		},
		Spec: corev1.PodSpec{
			Hostname: "templated", NodeSelector: map[string]string{"sbx-test": "this"},
			RestartPolicy:    corev1.RestartPolicyAlways, // a sandbox is never started again
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "first"}},
			Tolerations:      []corev1.Toleration{{Key: "first", Operator: corev1.TolerationOpExists}},
			Volumes:          []corev1.Volume{{Name: "more", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{
				{
					Name: "beside", Image: images.one, Command: []string{"sleep", "3600"}, SecurityContext: &corev1.SecurityContext{
						RunAsUser: new(int64(1000)), RunAsNonRoot: new(true), AllowPrivilegeEscalation: new(false),
						Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
				},
				{
					Name: "sandbox", Image: "not-this", Command: []string{"not-this"}, VolumeMounts: []corev1.VolumeMount{{Name: "more", MountPath: "/more"}},
					SecurityContext: &corev1.SecurityContext{Privileged: new(true)},
				},
			},
		},
	}
	session := openSession(t, onCluster(func(o *kubernetes.Options) {
		o.ServiceAccount, o.PullSecrets, o.Template = "pods", []string{"second"}, template
		o.Annotations = map[string]string{"note": "options"}
		o.Tolerations = []corev1.Toleration{{Key: "second", Operator: corev1.TolerationOpExists}}
	}))
	call := session.Function(look).Spawn(t.Context(), "")
	seen, err := call.Result(t.Context()) // which is an error if there is a token of the account
	require.NoError(t, err)
	assert.Equal(t, "0000000000000000", seen.Status["CapBnd"], "a template makes nobody privileged")
	out, err := session.Sandbox().Command("/bin/sh", "-c", "hostname; touch /more/file && echo written").Output()
	require.NoError(t, err)
	assert.Equal(t, "templated\nwritten\n", string(out))

	pod := podOf(t, call.Sandbox())
	assert.Equal(t, "template", pod.Labels["team"])
	assert.True(t, strings.HasPrefix(pod.Name, "sbx-"), pod.Name)
	assert.Equal(t, "pods", pod.Spec.ServiceAccountName)
	assert.Equal(t, []corev1.LocalObjectReference{{Name: "first"}, {Name: "second"}}, pod.Spec.ImagePullSecrets)
	assert.Equal(t, "options", pod.Annotations["note"])
	assert.Equal(t, "template", pod.Annotations["kept"])
	assert.Equal(t, corev1.RestartPolicyNever, pod.Spec.RestartPolicy)
	assert.Equal(t, "this", pod.Spec.NodeSelector["sbx-test"])
	var keys []string
	for _, toleration := range pod.Spec.Tolerations {
		keys = append(keys, toleration.Key)
	}
	assert.Subset(t, keys, []string{"first", "second"})
	require.Len(t, pod.Spec.Containers, 2)
	assert.Equal(t, images.one, pod.Spec.Containers[1].Image)
	assert.Equal(t, "not-this", template.Spec.Containers[1].Image, "the template is the program's, and stays as it was")

	require.NoError(t, session.Close())
	_, err = podWhere(t, func(o *kubernetes.Options) { o.Template = &corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostPID: true}} })
	assert.ErrorContains(t, err, "hostPID")
}
