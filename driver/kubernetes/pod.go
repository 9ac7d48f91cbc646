//go:build !sbxworker

package kubernetes

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/internal/artifact"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The marks of what belongs to sessions.
const (
	domain       = "sandboxfn.github.io/"
	leaseLabel   = domain + "sbx-lease" // the name of the session's Lease, on all that it has
	sessionLabel = domain + "sbx-session"
	sandboxLabel = domain + "sbx-sandbox"
	warmLabel    = domain + "sbx-warm" // on pods that were made before their sandbox
	tagLabels    = "tag." + domain     // and the tag
	tagsNote     = domain + "sbx-tags"
)

const (
	// sandboxName and loaderName are of containers.
	sandboxName = "sandbox"
	loaderName  = "sbx-loader"

	shell      = "/bin/sh"
	agentDir   = "/.sbx"
	workerPath = agentDir + "/worker"

	// agentPort is where agents listen. It is below the ports that connections get of the kernel.
	agentPort = 10129
)

// What sandboxes may write where nothing else is asked for, in MiB: much, but not all that a node has.
const defaultDiskMiB = 10 << 10

// Users of sandboxes, one each, are far from those of the nodes and of images.
const (
	firstUser = 1 << 20
	users     = 1 << 30
)

// What the loader says in its log, and the program that says it. It waits on a pipe, so that nobody has to look again and again. A session that is gone
// before it sends the worker must not keep the pod: the pipe ends with the sleep that holds it, too.
const (
	loaderHello = "sbx loader waits"
	loadTime    = 10 * time.Minute
)

// loader waits for the worker, unless what comes first ends it, and goes on with what comes then.
func loader(first, then string, wait time.Duration) []string {
	return []string{shell, "-c", first + fmt.Sprintf(`
mkfifo %[1]s/go || exit 1
sleep %[2]d >%[1]s/go &
echo '%[3]s'
read -r word <%[1]s/go || exit 1
rm -f %[1]s/go
kill $!
wait $! 2>/dev/null
%[4]s`, agentDir, int(wait.Seconds()), loaderHello, then)}
}

// upload is the program that takes the worker. Its argument is the hash of what must have arrived: an upload can be cut off without any
// error. One whose answer was lost has done all, and who would read from the pipe may have: to write there must not wait for that.
var upload = fmt.Sprintf(`if [ -x %[2]s ]; then
  [ ! -p %[1]s/go ] || echo go 1<>%[1]s/go
  exit 0
fi
rm -f %[1]s/part.*
part=%[1]s/part.$$
gzip -dc >$part && sum=$(sha256sum <$part) && [ "${sum%%%% *}" = "$1" ] && chmod 555 $part && mv $part %[2]s && echo go 1<>%[1]s/go`, agentDir, workerPath)

// podFor returns the pod of a sandbox. A spec without an ID is of those that wait for their sandbox. workerSize is in bytes.
func (s *session) podFor(name string, spec driver.Spec, workerSize int64) (*corev1.Pod, error) {
	o := s.options
	pod := &corev1.Pod{}
	if o.Template != nil {
		pod.ObjectMeta, pod.Spec = *o.Template.ObjectMeta.DeepCopy(), *o.Template.Spec.DeepCopy()
	}
	p := &pod.Spec
	if p.HostNetwork || p.HostPID || p.HostIPC {
		return nil, errors.New("Options.Template asks for namespaces of the host, which a sandbox must not have; leave hostNetwork, hostPID and hostIPC out")
	}
	pod.Name, pod.GenerateName, pod.Namespace = name, "", s.namespace
	pod.Labels, pod.Annotations = merge(pod.Labels, s.labels(spec)), merge(pod.Annotations, o.Annotations)
	pod.OwnerReferences = append(pod.OwnerReferences, s.owner())
	if err := s.roomFor(spec, workerSize); err != nil {
		return nil, err
	}
	if len(spec.Tags) > 0 {
		tags, err := json.Marshal(spec.Tags)
		if err != nil {
			return nil, err
		}
		pod.Annotations[tagsNote] = string(tags)
	}

	no, grace, lifetime := false, int64(1), int64(o.MaxLifetime.Seconds())
	p.RestartPolicy = corev1.RestartPolicyNever
	p.AutomountServiceAccountToken, p.EnableServiceLinks = &no, &no
	p.TerminationGracePeriodSeconds, p.ActiveDeadlineSeconds = &grace, &lifetime
	p.NodeSelector = merge(p.NodeSelector, o.NodeSelector, map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: o.Arch})
	p.Tolerations = append(p.Tolerations, o.Tolerations...)
	if o.ServiceAccount != "" {
		p.ServiceAccountName = o.ServiceAccount
	}
	if o.RuntimeClass != "" {
		p.RuntimeClassName = &o.RuntimeClass
	}
	for _, secret := range o.PullSecrets {
		p.ImagePullSecrets = append(p.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
	}
	s.addContainers(p, spec, workerSize)
	return pod, nil
}

// leastMemoryMiB is what a sandbox certainly needs beside the file of its worker.
const leastMemoryMiB = 6

// roomFor refuses a limit of memory that the worker's file alone uses up: what ends then is one of the programs that bring it, at any moment, and
// what that looks like from here says nothing of memory. It refuses one that is to be held if possible, too: this driver holds it.
func (s *session) roomFor(spec driver.Spec, workerSize int64) error {
	o, limits := s.options, spec.Limits.Or(spec.Soft)
	sent := !o.WorkerInImage && (o.NodeCache == "" || o.LoaderImage != "")
	size := workerSize>>20 + 1
	if !sent || limits.MemoryMiB == 0 || int64(limits.MemoryMiB) >= size+leastMemoryMiB {
		return nil
	}
	return &driver.LimitError{
		Driver: Name, Limit: driver.LimitMemory,
		Err: fmt.Errorf("the worker is sent into the sandbox's memory, and its file takes %d of the %d MiB", size, limits.MemoryMiB),
		Remedies: []string{
			fmt.Sprintf("give the sandbox more (sbx.Limit with MemoryMiB: its programs need some 30 beside the %d)", size),
			"have a smaller worker built (go tool sbxgen worker, and sbx.BuiltWorker)", "bring it in another way (Options.WorkerInImage, NodeCache)",
		},
	}
}

// addContainers adds the sandbox's own container and what it needs.
func (s *session) addContainers(p *corev1.PodSpec, spec driver.Spec, workerSize int64) {
	user := s.options.User
	if user == 0 {
		var random [4]byte
		_, _ = rand.Read(random[:])
		user = firstUser + int64(binary.NativeEndian.Uint32(random[:])%users)
	}
	boot := agent.Boot{Token: s.name, Lifetime: s.options.MaxLifetime, Listen: &agent.Listen{Port: agentPort, Client: s.identity.Key}}
	if spec.ID == "" {
		boot.Listen.Wait = s.options.MaxLifetime
	}

	c := corev1.Container{Name: sandboxName}
	at := slices.IndexFunc(p.Containers, func(c corev1.Container) bool { return c.Name == sandboxName })
	if at >= 0 {
		c = p.Containers[at]
	}
	c.Image = s.image(spec)
	c.WorkingDir = "/work"
	c.Env = append(c.Env, corev1.EnvVar{Name: agent.Variable, Value: boot.Encode()})
	c.SecurityContext = hardened(user)
	limits := spec.Limits.Or(spec.Soft.Without(driver.LimitInodes))
	held := quantities(limits, s.options.Resources)
	c.Resources.Limits, c.Resources.Requests = merge(c.Resources.Limits, held), merge(c.Resources.Requests, held)
	c.VolumeMounts = append(c.VolumeMounts,
		corev1.VolumeMount{Name: "sbx-tmp", MountPath: "/tmp"}, corev1.VolumeMount{Name: "sbx-work", MountPath: "/work"})
	for _, name := range []string{"sbx-tmp", "sbx-work"} {
		if limits.DiskMiB != 0 {
			p.Volumes = append(p.Volumes, scratch(name, int64(limits.DiskMiB), true))
		} else {
			p.Volumes = append(p.Volumes, scratch(name, defaultDiskMiB, false))
		}
	}
	if limits.DiskMiB != 0 { // the runtime's own has a size of its own
		p.Volumes = append(p.Volumes, scratch("sbx-shm", int64(limits.DiskMiB), true))
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "sbx-shm", MountPath: "/dev/shm"})
	}
	c.Args = nil
	s.addWorker(p, &c, spec, limits.DiskMiB != 0 || limits.MemoryMiB != 0, user, workerSize)
	if at >= 0 {
		p.Containers[at] = c
	} else {
		p.Containers = slices.Insert(p.Containers, 0, c)
	}
}

// addWorker sees to it that the container becomes the agent, which is the worker's own file. inMemory says that its folder is to be in memory. That is for
// a limit of disk, since the sandbox can write there, and for one of memory: where the kernel can drop a program's pages and read them again, it tries that for
// minutes, in which nothing else goes on, before it takes memory for used up.
func (s *session) addWorker(p *corev1.PodSpec, c *corev1.Container, spec driver.Spec, inMemory bool, user, size int64) {
	loads, wait := s.options.LoaderImage != "", loadTime
	if spec.ID == "" {
		wait = s.options.MaxLifetime
	}
	if s.options.WorkerInImage {
		c.Command = []string{path.Join(artifact.ImageFolder, s.worker.sum)}
		return
	}
	p.Volumes = append(p.Volumes, scratch("sbx-agent", size>>20+2, inMemory))
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "sbx-agent", MountPath: agentDir, ReadOnly: loads})
	switch {
	case loads:
		c.Command = []string{workerPath}
		p.InitContainers = append(p.InitContainers, corev1.Container{
			Name: loaderName, Image: s.options.LoaderImage, Command: loader("", ":", wait), SecurityContext: hardened(user),
			Resources:    c.Resources,
			VolumeMounts: []corev1.VolumeMount{{Name: "sbx-agent", MountPath: agentDir}},
		})
	case s.options.NodeCache != "":
		p.Volumes = append(p.Volumes, s.cacheVolume())
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: cacheName, MountPath: cacheDir, ReadOnly: true})
		c.Command = loader(fmt.Sprintf("[ -x %[1]s ] && exec %[1]s", cachedPath), "exec "+workerPath, wait)
	default:
		c.Command = loader("", "exec "+workerPath, wait)
	}
}

// hardened is what Kubernetes calls restricted, and a root that can't be written.
func hardened(user int64) *corev1.SecurityContext {
	yes, no := true, false
	return &corev1.SecurityContext{
		RunAsUser: &user, RunAsGroup: &user, RunAsNonRoot: &yes,
		ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, Privileged: &no,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// scratch is a folder for one pod. In memory its size is exact, and counts as the sandbox's memory; on the node's disk the kubelet looks from
// time to time, and evicts a pod that has more.
func scratch(name string, mib int64, memory bool) corev1.Volume {
	source := &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(mib<<20, resource.BinarySI)}
	if memory {
		source.Medium = corev1.StorageMediumMemory
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: source}}
}

// quantities are limits in the cluster's words.
func quantities(limits driver.Resources, more corev1.ResourceList) corev1.ResourceList {
	list := maps.Clone(more)
	if list == nil {
		list = corev1.ResourceList{}
	}
	if limits.CPUs != 0 {
		list[corev1.ResourceCPU] = *resource.NewMilliQuantity(max(1, int64(limits.CPUs*1000)), resource.DecimalSI)
	}
	if limits.MemoryMiB != 0 {
		list[corev1.ResourceMemory] = *resource.NewQuantity(int64(limits.MemoryMiB)<<20, resource.BinarySI)
	}
	return list
}

func (s *session) image(spec driver.Spec) string {
	if spec.Image != "" {
		return spec.Image
	}
	return s.options.Image
}

// labels name the sandbox and its tags, as far as a label can.
func (s *session) labels(spec driver.Spec) map[string]string {
	labels := map[string]string{leaseLabel: s.name}
	if spec.ID == "" {
		labels[warmLabel] = "true"
		return labels
	}
	for key, value := range map[string]string{sessionLabel: s.spec.ID, sandboxLabel: spec.ID} {
		if len(validation.IsValidLabelValue(value)) == 0 {
			labels[key] = value
		}
	}
	for _, tag := range spec.Tags {
		if len(validation.IsQualifiedName(tagLabels+tag)) == 0 {
			labels[tagLabels+tag] = ""
		}
	}
	return labels
}

func (s *session) owner() metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Name: s.name, UID: s.lease}
}

// merge returns all of the maps together, of which a later one counts more.
func merge[M ~map[K]V, K comparable, V any](all ...M) M {
	merged := M{}
	for _, m := range all {
		maps.Copy(merged, m)
	}
	return merged
}
