//go:build sbxworker

// Package kubernetes, as workers that sbxgen built have it: so much that a program compiles which configures the driver. sbx.Open fails in a worker
// before it needs a driver, so workers don't carry what talks to a cluster, which is as large as all the rest.
package kubernetes

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/sandboxfn/sbx/driver"
)

const (
	Name               = "kubernetes"
	DefaultImage       = ""
	DefaultMaxLifetime = time.Duration(0)
	DefaultMaxPending  = time.Duration(0)
)

// Options has the fields of the real one. The types of Kubernetes are any: with them a worker would be larger by half.
type Options struct {
	Config              any
	Kubeconfig, Context string
	Namespace           string
	Image               string
	LoaderImage         string
	NodeCache           string
	WorkerInImage       bool
	Arch                string
	ServiceAccount      string
	RuntimeClass        string
	Isolation           driver.Isolation
	User                int64
	NodeSelector        map[string]string
	Tolerations         any
	PullSecrets         []string
	Annotations         map[string]string
	Resources           any
	Template            any
	Network             bool
	MaxLifetime         time.Duration
	MaxPending          time.Duration
	Warm                int
	Reach               Reach
}

type Reach int

const (
	ByItself Reach = iota
	PortForward
	PodAddress
)

type inWorker struct{}

func New(*Options) driver.Driver { return inWorker{} }

func (inWorker) Name() string { return Name }

func (inWorker) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, errors.New("kubernetes: a worker opens no session")
}

func init() {
	driver.Register(Name, func(*url.URL) (driver.Driver, error) { return inWorker{}, nil })
}
