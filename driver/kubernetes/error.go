package kubernetes

import (
	"fmt"
	"strings"
)

// PodError says that a sandbox's pod did not come up, or was lost, and why, in the cluster's words.
type PodError struct {
	// Namespace and Pod name the pod.
	Namespace, Pod string
	// Reason is one word for it, the cluster's own where it has one: "Unschedulable", "Evicted", "OOMKilled", "Forbidden"; see the
	// Reason constants for the driver's.
	Reason string
	// Message is what the cluster says.
	Message string
	// Err is what failed, if anything did here.
	Err error
	// Remedies are things that the user can do, each a whole phrase, the best first.
	Remedies []string

	others bool // it was the cluster that ended the pod, for reasons that are not the pod's own
}

// EndedByOthers reports whether the pod was ended by somebody or something else than what ran in it: it was deleted, evicted or preempted, or its node was
// full or went away. A session starts another sandbox instead of one that ends so while it starts.
func (e *PodError) EndedByOthers() bool { return e.others || e.Reason == ReasonDeleted }

// Reasons of a [PodError] that the cluster has no word for.
const (
	// ReasonDeleted is a pod that somebody deleted.
	ReasonDeleted = "Deleted"
	// ReasonDisconnected is a pod whose connection broke.
	ReasonDisconnected = "Disconnected"
	// ReasonEnded is a pod that ended by itself before its time.
	ReasonEnded = "Ended"
	// ReasonSlow is a pod that has a node, and did not start in time.
	ReasonSlow = "StartTimeout"
	// ReasonQuota is a pod that was refused because of a quota of the namespace.
	ReasonQuota = "QuotaExceeded"
)

func (e *PodError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "pod %s/%s: %s", e.Namespace, e.Pod, e.Reason)
	if e.Message != "" {
		text.WriteString(": " + e.Message)
	}
	if e.Err != nil {
		text.WriteString(": " + e.Err.Error())
	}
	if len(e.Remedies) > 0 {
		text.WriteString("; to go on, " + strings.Join(e.Remedies, ", or "))
	}
	return text.String()
}

func (e *PodError) Unwrap() error { return e.Err }
