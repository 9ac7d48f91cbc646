package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
	"github.com/sandboxfn/sbx/internal/measure"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
)

// imageVariable names the image of all pods, where it is not the driver's default.
const imageVariable = "SBX_BENCH_KUBERNETES_IMAGE"

// memoryDir is a folder of bare pods that is in memory, as the driver's for the worker.
const memoryDir = "/memory"

// podTime is how long a bare pod may take.
const podTime = 2 * time.Minute

// cluster is where it is measured.
type cluster struct {
	config    *rest.Config
	client    kubeclient.Interface
	dynamic   dynamic.Interface
	namespace string
	image     string
	worker    func() (string, error) // the path of the worker that the last session has opened with
}

// connect finds the cluster, and makes nothing there.
func connect() (*cluster, error) {
	c := &cluster{image: os.Getenv(imageVariable)}
	if c.image == "" {
		c.image = kubernetes.DefaultImage
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	var err error
	if c.config, err = loader.ClientConfig(); err != nil {
		return nil, fmt.Errorf("%w: %w", measure.ErrLeftOut, err)
	}
	c.config.QPS, c.config.Burst = 100, 200 // as the driver's
	if c.client, err = kubeclient.NewForConfig(c.config); err != nil {
		return nil, err
	}
	c.dynamic, err = dynamic.NewForConfig(c.config)
	return c, err
}

// findCluster also makes a namespace.
func findCluster(ctx context.Context) (*cluster, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	made, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "sbx-bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	c.namespace = made.Name
	// Pods can't be made before there is an account that they run as.
	for ctx.Err() == nil {
		if _, err = c.client.CoreV1().ServiceAccounts(c.namespace).Get(ctx, "default", metav1.GetOptions{}); err == nil {
			return c, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.remove()
	return nil, err
}

func (c *cluster) remove() {
	_ = c.client.CoreV1().Namespaces().Delete(context.Background(), c.namespace, metav1.DeleteOptions{})
}

// driver is the driver's for this cluster, and notes the worker.
func (c *cluster) driver(change func(*kubernetes.Options)) driver.Driver {
	options := kubernetes.Options{Config: c.config, Namespace: c.namespace, Image: c.image, Reach: kubernetes.PortForward}
	if change != nil {
		change(&options)
	}
	return &noting{kubernetes.New(&options), c}
}

type noting struct {
	driver.Driver
	cluster *cluster
}

func (n *noting) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	find := spec.Worker
	spec.Worker = func(ctx context.Context, platform driver.Platform) (string, error) {
		path, err := find(ctx, platform)
		n.cluster.worker = func() (string, error) { return path, err }
		return path, err
	}
	return n.Driver.Open(ctx, spec)
}

// pod makes a bare pod and waits until it is ready.
func (c *cluster) pod(ctx context.Context, command ...string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	pods := c.client.CoreV1().Pods(c.namespace)
	made, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "bare-"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(false),
			Volumes: []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}},
			Containers: []corev1.Container{{
				Name: "bare", Image: c.image, Command: command, VolumeMounts: []corev1.VolumeMount{{Name: "memory", MountPath: memoryDir}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	watching, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + made.Name, ResourceVersion: made.ResourceVersion})
	if err != nil {
		return made, err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok || event.Type == watch.Deleted {
			break
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return pod, nil
			}
		}
	}
	return made, fmt.Errorf("pod %s is not ready within %v", made.Name, podTime)
}

// discard deletes a bare pod, and waits until it is gone, so that it disturbs nobody.
func (c *cluster) discard(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	pods := c.client.CoreV1().Pods(c.namespace)
	err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	for err == nil {
		if _, err = pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// dial connects to a port of a pod.
func (c *cluster) dial(ctx context.Context, pod *corev1.Pod, port int) (net.Conn, error) {
	address := c.client.CoreV1().RESTClient().Get().Resource("pods").Namespace(c.namespace).Name(pod.Name).SubResource("portforward").URL()
	return forward.Dial(ctx, c.config, klog.Background(), address.String(), port)
}

// packedWorker is what the driver sends to a pod.
func (c *cluster) packedWorker() ([]byte, error) {
	if c.worker == nil {
		return nil, errors.New("no session has been opened")
	}
	path, err := c.worker()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	packer, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	_, err = packer.Write(content)
	if err := errors.Join(err, packer.Close()); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// send sends data to a program in a pod.
func (c *cluster) send(ctx context.Context, pod *corev1.Pod, data []byte, command ...string) error {
	request := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "bare", Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return err
	}
	var told bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: io.Discard, Stderr: &told}); err != nil {
		return fmt.Errorf("%v: %w: %s", command, err, told.String())
	}
	return nil
}
