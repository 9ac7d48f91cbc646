package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/worker"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// simulatedLabel is on nodes that are played, and pods for them select it.
	simulatedLabel = "sbx-bench/simulated"
	podsPerNode    = 110 // as kubelets have it by default
	kubeletPort    = 10350
	agentPort      = 10129 // where the driver reaches agents
	renewTime      = 10 * time.Second
	// What kubelets have under way at the same time, and the requests of all of them in a second.
	atOnce            = 100
	requestsPerSecond = 2000
)

// nodes plays nodes of the cluster, the kubelets on them, and in each pod the driver's agent with a worker, all of it in this process. Pods have addresses
// of this machine's loopback.
type nodes struct {
	client    kubeclient.Interface
	namespace string
	identity  agent.Identity // of all agents
	places    chan struct{}  // taken by what kubelets do

	mu   sync.Mutex
	pods map[string]*played // by address
	has  map[types.UID]*played
}

// played is a pod.
type played struct {
	boot    agent.Boot
	deleted bool
}

// kubelets says how the API server reaches the kubelets that are played: the address is of this machine, and the certificate is for it.
type kubelets struct{ address, certificate, key string }

// play plays nodes for so many pods until its input ends, and says so when they are there.
func play(ctx context.Context, c *cluster, pods int, at kubelets) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config := *c.config
	config.QPS, config.Burst = requestsPerSecond, requestsPerSecond
	client, err := kubeclient.NewForConfig(&config)
	if err != nil {
		return err
	}
	identity, err := agent.NewIdentity()
	if err != nil {
		return err
	}
	n := &nodes{
		client: client, namespace: c.namespace, identity: identity, places: make(chan struct{}, atOnce), pods: map[string]*played{}, has: map[types.UID]*played{},
	}
	agents, err := net.Listen("tcp", fmt.Sprintf(":%d", agentPort))
	if err != nil {
		return err
	}
	defer agents.Close()
	go n.accept(ctx, agents)
	logs := &http.Server{Addr: fmt.Sprintf("%s:%d", at.address, kubeletPort), Handler: http.HandlerFunc(n.log), ReadHeaderTimeout: podTime}
	defer logs.Close()
	failed := make(chan error, 2)
	go func() { failed <- logs.ListenAndServeTLS(at.certificate, at.key) }()
	var names []string
	defer func() {
		for _, name := range names {
			_ = client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
		}
	}()
	for i := range pods/podsPerNode + 1 {
		name := fmt.Sprintf("%s-%d", c.namespace, i)
		if err := n.makeNode(ctx, name, at.address); err != nil {
			return err
		}
		names = append(names, name)
		go n.renew(ctx, name)
	}
	informer := cache.NewSharedIndexInformer(cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", c.namespace, fields.Everything()), &corev1.Pod{}, 0, nil)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { n.see(ctx, object) }, UpdateFunc: func(_, object any) { n.see(ctx, object) },
	}); err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	fmt.Println(areThere)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

// areThere is what play prints then.
const areThere = "nodes are there"

func (n *nodes) makeNode(ctx context.Context, name, address string) error {
	has := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: *resource.NewQuantity(podsPerNode, resource.DecimalSI)}
	now := metav1.Now()
	_, err := n.client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{simulatedLabel: "true", corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Status: corev1.NodeStatus{
			Capacity: has, Allocatable: has,
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Played", LastHeartbeatTime: now, LastTransitionTime: now}},
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	seconds, when := int32(40), metav1.NowMicro()
	_, err = n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &when},
	}, metav1.CreateOptions{})
	return err
}

// renew gives a node's signs of life.
func (n *nodes) renew(ctx context.Context, name string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewTime):
		}
		patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
		if _, err := n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "a node that is played:", err)
		}
	}
}

// see does what a kubelet does when it sees a pod of its node.
func (n *nodes) see(ctx context.Context, object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok || !strings.HasPrefix(pod.Spec.NodeName, n.namespace) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.has[pod.UID]
	switch {
	case p == nil && pod.DeletionTimestamp == nil:
		p = &played{}
		n.has[pod.UID] = p
		i := len(n.has)
		address := fmt.Sprintf("127.%d.%d.%d", 1+i>>16, i>>8&255, i&255)
		for _, variable := range pod.Spec.Containers[0].Env {
			if variable.Name == agent.Variable {
				_ = json.Unmarshal([]byte(variable.Value), &p.boot)
			}
		}
		n.pods[address] = p
		n.do(func() error { return n.run(ctx, pod, address) })
	case p != nil && pod.DeletionTimestamp != nil && !p.deleted:
		p.deleted = true
		n.do(func() error {
			return n.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		})
	}
}

func (n *nodes) do(what func() error) {
	go func() {
		n.places <- struct{}{}
		defer func() { <-n.places }()
		if err := what(); err != nil {
			fmt.Fprintln(os.Stderr, "a node that is played:", err)
		}
	}()
}

// run says that a pod runs.
func (n *nodes) run(ctx context.Context, pod *corev1.Pod, address string) error {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, StartTime: &now,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: pod.Spec.Containers[0].Name, Image: pod.Spec.Containers[0].Image, Ready: true, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = n.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// log is the kubelets' answer to who follows a container's log.
func (n *nodes) log(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/containerLogs/") {
		http.NotFound(w, r)
		return
	}
	_, _ = fmt.Fprintln(w, agent.Listens(n.identity.Key))
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// accept plays the agents.
func (n *nodes) accept(ctx context.Context, agents net.Listener) {
	for {
		conn, err := agents.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			address, _, _ := net.SplitHostPort(conn.LocalAddr().String())
			n.mu.Lock()
			p := n.pods[address]
			n.mu.Unlock()
			if p == nil {
				return
			}
			_ = serve(ctx, tls.Server(conn, n.identity.TLS(p.boot.Listen.Client)), p.boot.Token) // the session notices what goes wrong
		}()
	}
}

// serve is what an agent does on its connection, with the worker in this process.
func serve(ctx context.Context, conn net.Conn, token string) error {
	if _, err := io.WriteString(conn, agent.Hello(token)); err != nil {
		return err
	}
	session, err := yamux.Server(agent.Joined(conn), agent.Multiplexing())
	if err != nil {
		return err
	}
	defer session.Close()
	var streams [agent.Streams]net.Conn
	for i := range streams {
		if streams[i], err = session.Accept(); err != nil {
			return err
		}
	}
	control := streams[agent.ControlStream]
	var request agent.Request
	if err := agent.Read(control, agent.MaxRequest, &request); err != nil {
		return err
	}
	if err := agent.Write(control, agent.Event{Started: true}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- worker.Serve(ctx, streams[agent.ConnStream], streams[agent.HandshakeStream], nil, nil)
	}()
	if err := agent.Read(control, agent.MaxRequest, &request); err != nil { // or it is to be killed
		return err
	}
	cancel()
	<-ended //nolint:errcheck // it was killed, so how it ended counts for nothing
	if err := agent.Write(control, agent.Event{Exit: &agent.Exit{Code: -1, Signal: 9}}); err != nil {
		return err
	}
	<-session.CloseChan() // the driver has read it
	return nil
}
