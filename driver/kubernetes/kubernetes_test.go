package kubernetes_test

import (
	"cmp"
	"os"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/driver/kubernetes"
)

// What `make test-kubernetes` sets: that a cluster is there, and images that its nodes have or can pull.
const (
	askedVariable      = "SBX_TEST_KUBERNETES"
	imageVariable      = "SBX_TEST_KUBERNETES_IMAGE"
	otherImageVariable = "SBX_TEST_KUBERNETES_OTHER_IMAGE"
)

// needCluster skips tests that need a cluster, unless they are asked for: then they fail where there is none.
func needCluster(t *testing.T) {
	if os.Getenv(askedVariable) == "" {
		t.Skip("needs a cluster: make test-kubernetes runs it on the one of the current context")
	}
}

func image() string { return cmp.Or(os.Getenv(imageVariable), kubernetes.DefaultImage) }

func onCluster(change func(*kubernetes.Options)) driver.Driver {
	options := kubernetes.Options{Image: image()}
	if change != nil {
		change(&options)
	}
	return kubernetes.New(&options)
}

func TestDriver(t *testing.T) {
	needCluster(t)
	drivertest.Run(t, onCluster(nil), drivertest.Features{
		Processes: true, Isolation: true, Image: cmp.Or(os.Getenv(otherImageVariable), "debian:stable-slim"),
		CPUs: 0.5, // of which a small cluster has some left
	})
}
