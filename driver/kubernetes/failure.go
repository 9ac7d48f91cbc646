//go:build !sbxworker

package kubernetes

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/artifact"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// imageReasons are those of containers that wait for an image in vain.
var imageReasons = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
}

// startReasons are those of containers that can't start, for another reason than their image's.
var startReasons = []string{"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError", "PostStartHookError"}

// failure says why a pod will not come up, or has ended; nil while there is hope.
func failure(pod *corev1.Pod) error {
	wrong := &PodError{Namespace: pod.Namespace, Pod: pod.Name}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := status.State.Waiting; waiting != nil {
			switch {
			case slices.Contains(imageReasons, waiting.Reason):
				return imageFailure(pod, status.Name, waiting.Reason, waiting.Message)
			case slices.Contains(startReasons, waiting.Reason):
				wrong.Reason, wrong.Message = waiting.Reason, waiting.Message
				return wrong
			}
		}
		switch ended := status.State.Terminated; {
		case ended != nil && lacks(ended, shell):
			return lackFailure(pod, status.Name, ended.Message,
				"name an image with "+shell+" in Options.LoaderImage, which brings the worker into this one", "use an image that has a shell")
		case ended != nil && lacks(ended, artifact.ImageFolder):
			return lackFailure(pod, status.Name, ended.Message, "put the worker of the program as it is into an image of another tag, since nodes keep what they have: go tool sbxgen image",
				"open the session with sbx.BuiltWorker, so that it is the one that is there", "leave Options.WorkerInImage out")
		}
	}
	disrupted := disruption(pod)
	switch {
	case pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "": // of the kubelet
		wrong.Reason, wrong.Message = pod.Status.Reason, pod.Status.Message
		wrong.Remedies = remedies[pod.Status.Reason]
		wrong.others = pod.Status.Reason != "DeadlineExceeded"
	case disrupted != nil:
		wrong.Reason, wrong.Message = disrupted.Reason, disrupted.Message
		wrong.Remedies = remedies[disrupted.Reason]
		wrong.others = true
	case pod.DeletionTimestamp != nil:
		wrong.Reason, wrong.Message = ReasonDeleted, "somebody deleted it, or the session's Lease, which owns it (another session would have to be opened then)"
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		wrong.Reason = ReasonEnded
		if ended := sandboxEnd(pod); ended != nil {
			if ended.Reason != "" && ended.Reason != "Error" && ended.Reason != "Completed" {
				wrong.Reason = ended.Reason
			}
			wrong.Remedies = remedies[ended.Reason]
			wrong.Message = strings.TrimSpace(fmt.Sprintf("exit status %d %s", ended.ExitCode, ended.Message))
		}
	default:
		return nil
	}
	return wrong
}

// remedies are what helps, by the cluster's reasons.
var remedies = map[string][]string{
	"Evicted":               {"give the sandbox limits that fit (sbx.Limit), so that its memory and disk are requested from the scheduler"},
	"DeadlineExceeded":      {"raise Options.MaxLifetime"},
	"OOMKilled":             {"give the sandbox more memory (sbx.Limit with MemoryMiB)"},
	"PreemptionByScheduler": {"give the pods a higher priority: Options.Template with priorityClassName"},
}

// disruption is the condition that says who ends the pod; nil if nobody does.
func disruption(pod *corev1.Pod) *corev1.PodCondition {
	for i, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// sandboxEnd is how the sandbox's container ended; nil if it has not.
func sandboxEnd(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if ended := status.State.Terminated; ended != nil && (status.Name == sandboxName || ended.ExitCode != 0) {
			return ended
		}
	}
	return nil
}

// asked is the image that was asked for in a container.
func asked(pod *corev1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == container {
			return c.Image
		}
	}
	return ""
}

func imageFailure(pod *corev1.Pod, container, reason, message string) error {
	image := asked(pod, container)
	fix := []string{"check its name: the nodes pull it, and what is only on this machine is not there"}
	if reason == "InvalidImageName" {
		fix = []string{"write it as registry/repository:tag"}
	} else {
		fix = append(fix, "name the secret for its registry in Options.PullSecrets")
	}
	return &driver.ImageError{Driver: Name, Image: image, Err: &PodError{Namespace: pod.Namespace, Pod: pod.Name, Reason: reason, Message: message}, Remedies: fix}
}

// lacks tells whether a container could not start because a program is not there.
func lacks(ended *corev1.ContainerStateTerminated, program string) bool {
	return (ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun") && strings.Contains(ended.Message, program) &&
		strings.Contains(ended.Message, "no such file or directory")
}

func lackFailure(pod *corev1.Pod, container, message string, remedies ...string) error {
	wrong := &PodError{Namespace: pod.Namespace, Pod: pod.Name, Reason: "StartError", Message: message}
	return &driver.ImageError{Driver: Name, Image: asked(pod, container), Err: wrong, Remedies: remedies}
}

// unschedulable says why a pod has no node; nil if it has one.
func unschedulable(pod *corev1.Pod) *PodError {
	if pod.Spec.NodeName != "" {
		return nil
	}
	wrong := &PodError{Namespace: pod.Namespace, Pod: pod.Name, Reason: corev1.PodReasonUnschedulable, Message: "no scheduler has looked at it"}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			wrong.Reason, wrong.Message = c.Reason, c.Message
		}
	}
	wrong.Remedies = []string{"ask for less (sbx.Limit, Options.Resources)", "use nodes of another kind (Options.Arch, NodeSelector, Tolerations)",
		"let it wait longer for room (Options.MaxPending)"}
	return wrong
}

// runtimeFailure explains a warning about a pod for which its node has no runtime, in the words of containerd or of CRI-O; nil if it is about something else.
func runtimeFailure(namespace, pod string, event corev1.Event) error {
	if event.Reason != "FailedCreatePodSandBox" || !strings.Contains(event.Message, "no runtime for") && !strings.Contains(event.Message, "runtime handler") {
		return nil
	}
	return &PodError{Namespace: namespace, Pod: pod, Reason: event.Reason, Message: event.Message, Remedies: []string{
		"name a runtime class whose handler the nodes have (Options.RuntimeClass)", "choose nodes that have it (Options.NodeSelector)",
	}}
}

const (
	bindRole     = "have the Role of driver/kubernetes/rbac.yaml bound to this user"
	bindWarmRole = "have the Role of driver/kubernetes/rbac-warm.yaml bound to this user"
)

// createFailure explains why the API server refused a pod, or what its start needs.
func createFailure(namespace, pod string, err error) error {
	wrong := &PodError{Namespace: namespace, Pod: pod, Reason: string(apierrors.ReasonForError(err)), Err: err}
	text := err.Error()
	switch {
	case quotaExceeded(err):
		wrong.Reason = ReasonQuota
		wrong.Remedies = []string{"open the session with fewer sandboxes (sbx.MaxSandboxes)", "give them smaller limits (sbx.Limit)", "have the quota of the namespace raised"}
	case apierrors.IsForbidden(err) && strings.Contains(text, "must specify"):
		wrong.Remedies = []string{"give sandboxes limits (sbx.Limit with CPUs and MemoryMiB): the quota of the namespace wants all pods to have some"}
	case apierrors.IsForbidden(err) && strings.Contains(text, "PodSecurity"):
		wrong.Remedies = []string{"leave out of Options what the namespace's Pod Security level forbids"}
	case apierrors.IsForbidden(err) && strings.Contains(text, "RuntimeClass"):
		wrong.Remedies = []string{"name a runtime class that kubectl get runtimeclasses lists (Options.RuntimeClass)"}
	case apierrors.IsForbidden(err) && strings.Contains(text, "in API group"): // "User … cannot create resource …"
		wrong.Remedies = []string{bindRole}
		if strings.Contains(text, claims.Resource) {
			wrong.Remedies = []string{bindWarmRole}
		}
	case apierrors.IsUnauthorized(err):
		wrong.Remedies = []string{"open another session with a user whom the API server knows: the token has expired, or its user is no more"}
	case apierrors.IsNotFound(err) && strings.Contains(text, "namespaces"):
		wrong.Remedies = []string{"make the namespace: kubectl create namespace " + namespace}
	case wrong.Reason == "":
		wrong.Reason = "CreateFailed"
	}
	return wrong
}

// quotaExceeded tells whether a pod was refused for now, because of others.
func quotaExceeded(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota")
}
