//go:build !sbxworker

// Package kubernetes runs sandboxes as pods of a Kubernetes cluster.
//
//	session, err := sbx.Open(ctx, sbx.Driver(kubernetes.New(&kubernetes.Options{Namespace: "jobs", Image: "debian:stable-slim"})))
//
// Importing the package is enough for SBX_DRIVER=kubernetes:?namespace=jobs. Users of sbx pass [New]'s driver to sbx.Open; docs/kubernetes.md is
// the guide, and rbac.yaml, beside this file, is all that a program needs to be allowed.
//
// # A sandbox
//
// Each sandbox is one pod with one container of the user's image. It runs as a user id of its own without privileges: no capabilities, no new
// privileges, a read-only root, the runtime's seccomp profile, no token of a service account. It can write /tmp and /work, where it starts.
// The worker is started there by the agent (package internal/agent), which is the container's first process; the environment of
// the sandbox, secrets included, reaches it over the session's own connection and is in no object of the cluster.
//
// The worker is sent to each pod through the API server, and its hash is compared before it is run; [Options.NodeCache] keeps it
// on the nodes instead, and [Options.WorkerInImage] has it in the image.
//
// # Who may talk to whom
//
// The agent waits on one TCP port, and takes the one connection whose client certificate has the key that the pod's specification names: that of the
// session, which leaves its process never. Which key the agent has, that the session must meet there, the agent writes into the pod's log, which
// comes through the API server. So neither side believes the network between them, and no secret is kept in the cluster. From outside of the
// cluster the connection is a port-forward through the API server; from within it goes to the pod's address.
//
// # Lives
//
// A session has one Lease object, renewed while it is open, which owns its pods. When the program is killed, the agents see their connections end and
// end too, so no pod goes on running; the finished pods go with the lease, which the next session in the namespace deletes when it has expired.
// Whoever deletes the lease deletes the sandboxes. Pods have a deadline, [Options.MaxLifetime], beyond all that.
//
// A session owns these goroutines, and Close waits for them: the watch of its pods, the renewal of its lease, and those of the connections to agents.
package kubernetes

import (
	"context"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/driver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// Name is the driver's name, and its scheme in URLs.
const Name = "kubernetes"

// What Options have where nothing is given.
const (
	DefaultImage       = "busybox:stable"
	DefaultMaxLifetime = 24 * time.Hour
	DefaultMaxPending  = 2 * time.Minute
)

// Options configure the driver. The zero value is the current context of kubectl, or the cluster that the program itself runs in.
//
// In a worker that sbxgen built Config, Tolerations, Resources and Template are of type any, since it has no client-go. So set them as a whole:
// code that goes into them, such as options.Template.Spec.PriorityClassName = "low", does not compile there.
type Options struct {
	// Config says how the cluster is reached. Nil is, in this order: what Kubeconfig and Context name, the file that KUBECONFIG names, the
	// cluster that this program runs in, kubectl's own file.
	Config *rest.Config
	// Kubeconfig is the path of a kubeconfig file, and Context the name of a context in it, or in KUBECONFIG's.
	Kubeconfig, Context string
	// Namespace is where the pods are. Empty is the context's, or the program's own in a cluster.
	Namespace string

	// Image is what sandboxes come from that ask for no other; empty is [DefaultImage]. It needs /bin/sh, mkfifo, gzip and sha256sum, unless the
	// worker comes in another way (LoaderImage, WorkerInImage).
	Image string
	// LoaderImage, if it is not empty, has these tools for images that don't: it runs before them, in a container of its own, which takes
	// about a second.
	LoaderImage string
	// NodeCache, if it is not empty, is a folder of the nodes in which they keep the worker, such as /var/cache/sbx: it is sent once to each node then, by a pod
	// that writes there as root, and sandboxes see it for reading. The namespace must allow hostPath volumes. Pods with a LoaderImage don't use it.
	// Nobody removes workers of programs that have changed.
	NodeCache string
	// WorkerInImage says that all images have the program's worker, as go tool sbxgen image puts it there: nothing is sent then, and images need no shell. The
	// session must have the same worker: open it with sbx.BuiltWorker.
	WorkerInImage bool
	// Arch is the architecture of the nodes for sandboxes, as Go names it; empty is that of this program.
	Arch string

	// ServiceAccount is the pods'. Its token is not mounted. Empty is the namespace's default.
	ServiceAccount string
	// RuntimeClass is the pods' runtime class, such as one of gVisor or of Kata Containers.
	RuntimeClass string
	// Isolation is what the runtime class gives; 0 is driver.SharedKernel.
	Isolation driver.Isolation
	// User is the user and group id in the pods; 0 is one of its own for each. Clusters that assign ids, such as OpenShift, want one of theirs.
	User int64
	// NodeSelector and Tolerations say on which nodes the pods run.
	NodeSelector map[string]string
	Tolerations  []corev1.Toleration
	// PullSecrets are the names of the secrets that images are pulled with.
	PullSecrets []string
	// Annotations are set on each pod.
	Annotations map[string]string
	// Resources are what each sandbox gets beside its limits, such as GPUs: "nvidia.com/gpu". They are requested and limited alike.
	Resources corev1.ResourceList
	// Template is what pods begin with, and the rest of the options and the sandbox's own needs are merged into. The sandbox's container is
	// the one of the name "sandbox"; if there is none, it is added. Host namespaces are refused.
	Template *corev1.PodTemplateSpec

	// Network lets sandboxes use the network. Without it the driver makes a NetworkPolicy that denies all but the session's own connection;
	// whether that is enforced is up to the cluster's network plugin.
	Network bool

	// MaxLifetime is when the cluster ends a pod at the latest; 0 is [DefaultMaxLifetime].
	MaxLifetime time.Duration
	// MaxPending is how long a pod may wait for a node with room, such as for a cluster that grows; 0 is [DefaultMaxPending].
	MaxPending time.Duration

	// Warm is how many pods the cluster keeps ready for sandboxes that ask for no limits, tags or another image: by kubernetes-sigs/agent-sandbox, which must be there
	// (extensions.agents.x-k8s.io/v1beta1), and with rbac-warm.yaml beside rbac.yaml. They all have one user id.
	Warm int

	// Reach says how agents are reached; 0 is ByItself.
	Reach Reach
}

// Reach says how a session reaches the agents in its pods.
type Reach int

const (
	// ByItself is PodAddress in a program that runs in the cluster, and PortForward elsewhere.
	ByItself Reach = iota
	// PortForward goes through the API server, from anywhere.
	PortForward
	// PodAddress goes to the pods' own addresses, which must be reachable from here.
	PodAddress
)

// kubernetesDriver is what New returns.
type kubernetesDriver struct{ options Options }

// New returns a driver for sandboxes in a cluster. A nil options is the zero value. It does no I/O.
func New(options *Options) driver.Driver {
	d := &kubernetesDriver{}
	if options != nil {
		d.options = *options
	}
	o := &d.options
	if o.Image == "" {
		o.Image = DefaultImage
	}
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if o.Isolation == driver.NoIsolation {
		o.Isolation = driver.SharedKernel
	}
	if o.MaxLifetime == 0 {
		o.MaxLifetime = DefaultMaxLifetime
	}
	if o.MaxPending == 0 {
		o.MaxPending = DefaultMaxPending
	}
	return d
}

func (*kubernetesDriver) Name() string { return Name }

func (d *kubernetesDriver) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	return open(ctx, d.options, spec)
}

func init() { driver.Register(Name, fromURL) }

// fromURL makes a driver of kubernetes:?namespace=jobs&image=debian:12.
func fromURL(u *url.URL) (driver.Driver, error) {
	if u.Host != "" || u.Path != "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%q: everything is a parameter here, as in kubernetes:?namespace=jobs&image=debian:12", u.Redacted())
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, err
	}
	var o Options
	texts := map[string]*string{
		"kubeconfig": &o.Kubeconfig, "context": &o.Context, "namespace": &o.Namespace, "image": &o.Image, "loader": &o.LoaderImage,
		"arch": &o.Arch, "serviceaccount": &o.ServiceAccount, "runtimeclass": &o.RuntimeClass,
	}
	for name, values := range query {
		value := values[len(values)-1]
		switch text := texts[name]; {
		case len(values) > 1:
			return nil, fmt.Errorf("the parameter %s is given %d times", name, len(values))
		case text != nil:
			*text = value
		case name == "worker" && value == "in-image":
			o.WorkerInImage = true
		case name == "worker":
			return nil, fmt.Errorf("worker is in-image, or left out; not %q", value)
		case name == "network" && value == "none":
		case name == "network" && value == "open":
			o.Network = true
		case name == "network":
			return nil, fmt.Errorf("network is none or open, not %q", value)
		case name == "lifetime" || name == "pending":
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 {
				return nil, fmt.Errorf("%s is a duration such as 1h30m, not %q", name, value)
			}
			if name == "lifetime" {
				o.MaxLifetime = d
			} else {
				o.MaxPending = d
			}
		default:
			return nil, fmt.Errorf("there is no parameter %s; there are %s", name, strings.Join(parameters, ", "))
		}
	}
	return New(&o), nil
}

var parameters = []string{
	"arch", "context", "image", "kubeconfig", "lifetime", "loader", "namespace", "network", "pending", "runtimeclass", "serviceaccount",
	"worker",
}
