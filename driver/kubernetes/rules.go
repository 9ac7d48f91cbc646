//go:build !sbxworker

package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// need is one thing that a session must be allowed: what rbac.yaml says.
type need struct{ group, resource, verb string }

// needs are all of them. Network policies and events are not among them: without them a session says less, or does less.
var needs = []need{
	{"", "pods", "create"}, {"", "pods", "delete"}, {"", "pods", "list"}, {"", "pods", "watch"},
	{"", "pods/log", "get"}, {"", "pods/exec", "create"}, {"", "pods/exec", "get"},
	{"coordination.k8s.io", "leases", "create"}, {"coordination.k8s.io", "leases", "delete"}, {"coordination.k8s.io", "leases", "list"},
	{"coordination.k8s.io", "leases", "patch"},
}

func (n need) String() string {
	if n.group == "" {
		return n.verb + " " + n.resource
	}
	return n.verb + " " + n.resource + "." + n.group
}

// checkRules asks in one request for all that this session may do, so that what is missing is known at once and as a whole.
func (s *session) checkRules(ctx context.Context) error {
	review, err := s.client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: s.namespace},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask the API server at %s what this user may do: %w", s.config.Host, err)
	}
	if review.Status.Incomplete { // an authorizer can't tell
		return nil
	}
	wanted := needs
	if !s.inside {
		wanted = append(slices.Clone(needs), need{"", "pods/portforward", "create"}, need{"", "pods/portforward", "get"})
	}
	var missing []string
	for _, n := range wanted {
		if !allows(review.Status.ResourceRules, n) {
			missing = append(missing, n.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this user may not do all that is needed in the namespace %s; it lacks %s", s.namespace, strings.Join(missing, ", "))
	}
	return nil
}

func allows(rules []authorizationv1.ResourceRule, n need) bool {
	has := func(list []string, value string) bool {
		return slices.Contains(list, value) || slices.Contains(list, "*")
	}
	return slices.ContainsFunc(rules, func(r authorizationv1.ResourceRule) bool {
		_, sub, _ := strings.Cut(n.resource, "/")
		return has(r.Verbs, n.verb) && has(r.APIGroups, n.group) && len(r.ResourceNames) == 0 &&
			(has(r.Resources, n.resource) || sub != "" && slices.Contains(r.Resources, "*/"+sub))
	})
}
