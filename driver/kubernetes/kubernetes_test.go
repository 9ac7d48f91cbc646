package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// What `make test-kubernetes` sets: the names of three images that the cluster's nodes have or can pull, two with a shell and one without; and a
// program that stops and starts parts of the cluster, if there is one.
const (
	askedVariable   = "SBX_TEST_KUBERNETES"
	controlVariable = "SBX_TEST_KUBERNETES_CONTROL"
	// withinVariable says that pods' addresses can be reached, and should be.
	withinVariable = "SBX_TEST_KUBERNETES_WITHIN"
)

// images are those that the tests use.
var images struct{ one, other, bare string }

// The cluster that the tests use.
var (
	admin     kubeclient.Interface // may do all; the driver does not use it
	namespace string               // made for this run
	account   *rest.Config         // of somebody who has the Role of rbac.yaml, and nothing else
)

func TestMain(m *testing.M) {
	if os.Getenv(askedVariable) == "" {
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := prepare(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "the tests need a cluster, and a user who may make namespaces and roles there:", err)
			return 1
		}
		defer func() {
			_ = admin.CoreV1().Namespaces().Delete(context.Background(), namespace, metav1.DeleteOptions{})
		}()
		return m.Run()
	}())
}

// prepare makes a namespace with a user for the tests.
func prepare(ctx context.Context) error {
	names := strings.Split(os.Getenv(askedVariable), ",")
	if len(names) != 3 {
		return fmt.Errorf("%s has the names of three images, and not %q", askedVariable, names)
	}
	images.one, images.other, images.bare = names[0], names[1], names[2]
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return err
	}
	if admin, err = kubeclient.NewForConfig(config); err != nil {
		return err
	}
	made, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "sbx-test-",
		// The strictest level: what the driver makes must be allowed everywhere.
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	namespace = made.Name
	role, err := makeRole(ctx, "rbac.yaml")
	if err != nil {
		return err
	}
	account, err = makeAccount(ctx, config, "tests", role)
	return err
}

// makeRole makes the role in a file, and returns its name.
func makeRole(ctx context.Context, file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var role rbacv1.Role
	if err := yaml.UnmarshalStrict(text, &role); err != nil {
		return "", err
	}
	_, err = admin.RbacV1().Roles(namespace).Create(ctx, &role, metav1.CreateOptions{})
	return role.Name, err
}

// makeAccount makes a service account, binds a role to it if one is named, and returns how it reaches the cluster.
func makeAccount(ctx context.Context, config *rest.Config, name, role string) (*rest.Config, error) {
	meta := metav1.ObjectMeta{Name: name}
	if _, err := admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if role != "" {
		_, err := admin.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
	}
	token, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(7200))},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	anonymous := rest.AnonymousClientConfig(config)
	anonymous.BearerToken = token.Status.Token
	return anonymous, nil
}

// needCluster skips tests that need a cluster, unless they are asked for: then TestMain fails where there is none.
func needCluster(t *testing.T) {
	if os.Getenv(askedVariable) == "" {
		t.Skip("needs a cluster: make test-kubernetes runs it on that of the current context")
	}
}

// onCluster is the driver for the tests' cluster, with options that change has changed.
func onCluster(change func(*kubernetes.Options)) driver.Driver {
	options := kubernetes.Options{Config: account, Namespace: namespace, Image: images.one}
	if within() {
		options.Reach = kubernetes.PodAddress
	}
	if change != nil {
		change(&options)
	}
	return kubernetes.New(&options)
}

func within() bool { return os.Getenv(withinVariable) != "" }

func TestDriver(t *testing.T) {
	needCluster(t)
	drivertest.Run(t, onCluster(nil), drivertest.Features{
		Processes: true, Isolation: true, Image: images.other,
		CPUs: 0.5, // of which a small cluster has some left
	})
	nothingLeft(t)
}

// nothingLeft fails if anything of a session is left in the cluster.
func nothingLeft(t *testing.T) {
	t.Helper()
	ctx := context.Background() // also when the test has ended
	labelled := metav1.ListOptions{LabelSelector: "sandboxfn.github.io/sbx-lease"}
	pods, err := admin.CoreV1().Pods(namespace).List(ctx, labelled)
	require.NoError(t, err)
	leases, err := admin.CoordinationV1().Leases(namespace).List(ctx, labelled)
	require.NoError(t, err)
	policies, err := admin.NetworkingV1().NetworkPolicies(namespace).List(ctx, labelled)
	require.NoError(t, err)
	require.Empty(t, pods.Items)
	require.Empty(t, leases.Items)
	require.Empty(t, policies.Items)
}
