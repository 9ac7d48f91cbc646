//go:build !sbxworker

package kubernetes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// denyNetwork forbids the session's pods all but the connections to their agents.
func (s *session) denyNetwork(ctx context.Context) error {
	if s.options.Network {
		return nil
	}
	tcp, port := corev1.ProtocolTCP, intstr.FromInt32(agentPort)
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: s.name, Labels: map[string]string{leaseLabel: s.name}, OwnerReferences: []metav1.OwnerReference{s.owner()}},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{leaseLabel: s.name}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &port}}}},
		},
	}
	_, err := s.client.NetworkingV1().NetworkPolicies(s.namespace).Create(ctx, policy, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		s.spec.Logger.Warn("sandboxes have the network of other pods: this user may not make a NetworkPolicy", "namespace", s.namespace, "err", err)
		return nil
	case err != nil:
		return fmt.Errorf("make a NetworkPolicy: %w", err)
	}
	s.denied = true
	return nil
}

// allowNetwork deletes what denyNetwork made. The cluster would do so too, but later.
func (s *session) allowNetwork(ctx context.Context) error {
	if !s.denied {
		return nil
	}
	err := s.client.NetworkingV1().NetworkPolicies(s.namespace).Delete(ctx, s.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the NetworkPolicy %s: %w", s.name, err)
	}
	return nil
}
