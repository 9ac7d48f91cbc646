//go:build !sbxworker

package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// How fast a session may ask the API server, beyond which its requests wait: a create, a delete, a log and a connection for each sandbox. A server that
// is asked too much says so, and client-go waits then, too.
const (
	requestsPerSecond = 100
	requestsAtOnce    = 200
)

// cluster is how a session reaches its cluster.
type cluster struct {
	config    *rest.Config
	namespace string
	inside    bool   // this program runs in it
	own       string // the namespace of the program's own pod, if it has one in this cluster

	connections *connections
}

// namespaceFile is where a pod finds the name of its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// findCluster finds the cluster that the options name. It does no I/O but reading files.
func findCluster(o Options, logger *slog.Logger) (*cluster, error) {
	c, err := configure(o)
	if err != nil {
		return nil, err
	}
	c.config = rest.CopyConfig(c.config)
	if c.config.QPS == 0 && c.config.RateLimiter == nil {
		c.config.QPS, c.config.Burst = requestsPerSecond, requestsAtOnce
	}
	if c.config.UserAgent == "" {
		c.config.UserAgent = "sbx"
	}
	if c.config.ContentType == "" { // it is a third less than JSON
		c.config.ContentType = runtime.ContentTypeProtobuf
		c.config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	// With it client-go makes a transport that is this session's alone, and whose connections end with it.
	if c.config.Proxy == nil {
		c.config.Proxy = http.ProxyFromEnvironment
	}
	// Certificates in files are read now: client-go has goroutines that look after such files, which no session could end.
	if err := rest.LoadTLSFiles(c.config); err != nil {
		return nil, err
	}
	c.config.CertFile, c.config.KeyFile, c.config.CAFile = "", "", ""
	c.connections = newConnections(c.config.Dial)
	c.config.Dial = c.connections.open
	c.config.WarningHandlerWithContext = warnings{logger}
	if o.Namespace != "" {
		c.namespace = o.Namespace
	}
	switch o.Reach {
	case PortForward:
		c.inside = false
	case PodAddress:
		c.inside = true
	}
	return c, nil
}

func configure(o Options) (*cluster, error) {
	if o.Config != nil {
		return &cluster{config: o.Config, namespace: "default"}, nil
	}
	named := o.Kubeconfig != "" || o.Context != "" || os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != ""
	if !named {
		if config, err := rest.InClusterConfig(); err == nil {
			own, err := os.ReadFile(namespaceFile)
			if err != nil {
				return nil, fmt.Errorf("find this pod's namespace: %w; set Options.Namespace", err)
			}
			namespace := strings.TrimSpace(string(own))
			return &cluster{config: config, namespace: namespace, own: namespace, inside: true}, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) { // says nothing of files that are not there
		return nil, fmt.Errorf("no current context with a cluster in %s", strings.Join(rules.GetLoadingPrecedence(), ", "))
	}
	if err != nil {
		return nil, err
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, err
	}
	return &cluster{config: config, namespace: namespace}, nil
}

// warnings are what the API server says beside its answers.
type warnings struct{ logger *slog.Logger }

func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		w.logger.Warn("the API server warns", "text", text)
	}
}
