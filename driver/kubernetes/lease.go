//go:build !sbxworker

package kubernetes

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// leaseTime is how long a session that says nothing is taken for alive. Nothing is urgent: pods end with their sessions by themselves.
	leaseTime = 15 * time.Minute
	// renewTime is between two signs of life, and againTime where one could not be given: after a time without API servers, other sessions must not
	// find the lease as it was.
	renewTime = time.Minute
	againTime = 5 * time.Second
	// requestTime bounds a request that nobody waits for.
	requestTime = 20 * time.Second
)

// The variables that tell a program in a pod which one it is in; see docs/kubernetes.md.
const (
	podNameVariable = "SBX_POD_NAME"
	podUIDVariable  = "SBX_POD_UID"
)

// makeLease makes the object that owns all that the session has in the cluster.
func (s *session) makeLease(ctx context.Context) error {
	s.name = "sbx-" + strings.ToLower(rand.Text()[:12])
	seconds, now := int32(leaseTime.Seconds()), metav1.NowMicro()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: s.name, Labels: map[string]string{leaseLabel: s.name}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &s.spec.ID, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
	}
	switch name, uid := os.Getenv(podNameVariable), os.Getenv(podUIDVariable); {
	case (name == "") != (uid == ""):
		s.spec.Logger.Warn("one of two variables is missing that tell which pod this program is in, so nothing goes with that pod; set both, see docs/kubernetes.md",
			podNameVariable, name, podUIDVariable, uid)
	case name != "" && s.own == s.namespace: // an owner in another namespace counts as one that is gone
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}}
	}
	made, err := s.client.CoordinationV1().Leases(s.namespace).Create(ctx, lease, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make the session's Lease in the namespace %s: %w", s.namespace, err)
	}
	s.lease = made.UID
	// Others compare what this session writes with the cluster's clock, which this machine's need not agree with.
	s.ahead = made.CreationTimestamp.Sub(now.Time)
	return nil
}

// renew gives signs of life until ctx ends.
func (s *session) renew(ctx context.Context) {
	pause := renewTime
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": metav1.NewMicroTime(time.Now().Add(s.ahead))}})
		if err == nil {
			bounded, cancel := context.WithTimeout(ctx, requestTime)
			_, err = s.client.CoordinationV1().Leases(s.namespace).Patch(bounded, s.name, types.MergePatchType, patch, metav1.PatchOptions{})
			cancel()
		}
		switch {
		case err == nil || ctx.Err() != nil:
			pause = renewTime
		case apierrors.IsNotFound(err):
			s.mu.Lock()
			s.ownerless = true
			s.mu.Unlock()
			s.spec.Logger.Error("the session's Lease was deleted, and its pods go with it; open another session", "lease", s.name, "namespace", s.namespace)
			return
		case pause == renewTime: // told once
			pause = againTime
			s.spec.Logger.Warn("the session's Lease could not be renewed", "lease", s.name, "err", err)
		}
	}
}

// sweep deletes the leases of sessions that are gone, and with them what they left.
func (s *session) sweep(ctx context.Context) error {
	leases, err := s.client.CoordinationV1().Leases(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: leaseLabel})
	if err != nil {
		return fmt.Errorf("look for what killed sessions left: %w", err)
	}
	now := time.Now().Add(s.ahead)
	for _, lease := range leases.Items {
		if !expired(&lease, now) {
			continue
		}
		s.spec.Logger.Info("a session is gone that left something; it is deleted", "lease", lease.Name, "namespace", s.namespace)
		// Not if it has been renewed meanwhile.
		if err := s.deleteLease(ctx, lease.Name, metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}); err != nil {
			return err
		}
	}
	return nil
}

// expired tells whether nobody renews a lease any more.
func expired(lease *coordinationv1.Lease, now time.Time) bool {
	if lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		return false // not as this driver writes them
	}
	return now.After(lease.Spec.RenewTime.Add(time.Duration(*lease.Spec.LeaseDurationSeconds) * time.Second))
}

func (s *session) deleteLease(ctx context.Context, name string, only metav1.Preconditions) error {
	err := s.client.CoordinationV1().Leases(s.namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &only})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete the Lease %s: %w", name, err)
	}
	return nil
}
