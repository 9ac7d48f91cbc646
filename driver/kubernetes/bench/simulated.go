package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/kubernetes"
	"github.com/sandboxfn/sbx/internal/measure"
	"k8s.io/client-go/rest"
)

// startsAtOnce is how many sandboxes are being made at a time.
const startsAtOnce = 500

// simulated measures a session with as many sandboxes as are asked for, in pods that run nowhere: a process of its own plays nodes, kubelets and agents, so what is
// left is what the session and the API server have to do. It must run where the API server reaches the address of the kubelets.
func (b *bench) simulated(ctx context.Context, w *strings.Builder) error {
	if b.kubelets.address == "" {
		return fmt.Errorf("%w: it needs -kubelet-address, -kubelet-certificate and -kubelet-key", measure.ErrLeftOut)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	player := exec.CommandContext(ctx, self, "-play", strconv.Itoa(b.sandboxes), "-namespace", b.namespace,
		"-kubelet-address", b.kubelets.address, "-kubelet-certificate", b.kubelets.certificate, "-kubelet-key", b.kubelets.key)
	player.Stderr = os.Stderr
	input, err := player.StdinPipe()
	if err != nil {
		return err
	}
	output, err := player.StdoutPipe()
	if err != nil {
		return err
	}
	if err := player.Start(); err != nil {
		return err
	}
	defer func() {
		_ = input.Close() // which ends it, and the nodes
		_ = player.Wait()
	}()
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || strings.TrimSpace(line) != areThere {
		return errors.Join(errors.New("the nodes are not there"), err)
	}
	return b.withMany(ctx, w)
}

func (b *bench) withMany(ctx context.Context, w *strings.Builder) error {
	counts := &requests{byKind: map[string]int{}}
	config := rest.CopyConfig(b.config)
	config.QPS, config.Burst = 0, 0 // the driver's own
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, counts} })
	d := b.driver(func(o *kubernetes.Options) {
		o.Config, o.Reach, o.WorkerInImage = config, kubernetes.PodAddress, true
		o.NodeSelector = map[string]string{simulatedLabel: "true"}
		o.MaxPending = time.Hour
	})
	session, err := sbx.Open(ctx, sbx.Driver(d), sbx.MaxSandboxes(b.sandboxes), sbx.StartsAtOnce(startsAtOnce))
	if err != nil {
		return err
	}
	defer session.Close()
	server, err := b.server(ctx)
	if err != nil {
		return err
	}
	heapBefore, stacksBefore := measure.InUse()
	before := runtime.NumGoroutine()
	began := time.Now()
	if err := session.Prewarm(ctx, b.sandboxes); err != nil {
		return err
	}
	started := time.Since(began)
	n := float64(b.sandboxes)
	heap, stacks := measure.InUse()
	goroutines := float64(runtime.NumGoroutine()-before) / n
	serverThen, err := b.server(ctx)
	if err != nil {
		return err
	}
	began = time.Now()
	if err := b.callAll(ctx, session); err != nil {
		return err
	}
	called := time.Since(began)
	began = time.Now()
	if err := session.Close(); err != nil {
		return err
	}
	closed := time.Since(began)
	serverLast, err := b.server(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `%d sandboxes at the same time, in pods that are played by a process beside, reached at their addresses.

| | |
| --- | --- |
| until all are there | %s s |
| a call in each, all at the same time | %s s |
| Close, until the cluster has none of them | %s s |
| requests | %s |
| what the watch brought, for each | %s KB |
| the session's heap, for each | %s KiB |
| stacks, for each | %s KiB |
| goroutines, for each | %s |
| processor time of the API server, for each | %s ms |
| memory of the API server, before, with all of them, after | %.0f, %.0f and %.0f MiB |
`, b.sandboxes, measure.Short(started.Seconds()), measure.Short(called.Seconds()), measure.Short(closed.Seconds()), counts,
		measure.Short(float64(counts.watched.Load())/n/1000), measure.Short((heap-heapBefore)/n/1024), measure.Short((stacks-stacksBefore)/n/1024), measure.Short(goroutines),
		measure.Short((serverLast.processor-server.processor)*1000/n), server.memory, serverThen.memory, serverLast.memory)
	return nil
}

// callAll makes as many calls at the same time as there are sandboxes.
func (b *bench) callAll(ctx context.Context, session *sbx.Session) error {
	empty := session.Function(Empty)
	errs := make([]error, b.sandboxes)
	var calls sync.WaitGroup
	for i := range b.sandboxes {
		calls.Go(func() { _, errs[i] = empty.Call(ctx, struct{}{}) })
	}
	calls.Wait()
	return errors.Join(errs...)
}

// serverUse is what the API server has used: seconds of processors, and MiB that it has now.
type serverUse struct{ processor, memory float64 }

func (b *bench) server(ctx context.Context) (use serverUse, err error) {
	text, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return use, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_cpu_seconds_total":
			use.processor = number
		case "process_resident_memory_bytes":
			use.memory = number / (1 << 20)
		}
	}
	return use, nil
}

// requests are those of a session.
type requests struct {
	mu      sync.Mutex
	byKind  map[string]int
	watched atomic.Int64 // bytes
}

func (r *requests) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var texts []string
	for _, kind := range slices.Sorted(maps.Keys(r.byKind)) {
		if n := r.byKind[kind]; n > 5 { // others don't grow with the sandboxes
			texts = append(texts, fmt.Sprintf("%s %d", kind, n))
		}
	}
	return strings.Join(texts, ", ")
}

// counting counts requests.
type counting struct {
	http.RoundTripper
	requests *requests
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := r.Method
	switch {
	case strings.HasSuffix(r.URL.Path, "/log"):
		kind = "log"
	case r.URL.Query().Get("watch") != "":
		kind = "watch"
	}
	c.requests.mu.Lock()
	c.requests.byKind[kind]++
	c.requests.mu.Unlock()
	response, err := c.RoundTripper.RoundTrip(r)
	if err == nil && r.URL.Query().Get("watch") != "" {
		response.Body = countingBody{response.Body, &c.requests.watched}
	}
	return response, err
}

type countingBody struct {
	io.ReadCloser
	read *atomic.Int64
}

func (b countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}
