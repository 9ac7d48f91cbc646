// Bench measures what sandboxes in a cluster cost, beside pods that one would use without sbx: an echo through a port-forward, pods that are made and
// become ready, and claims of pods that were made before. It uses the cluster of kubectl's current context, in which it makes a namespace and deletes it.
//
//	CGO_ENABLED=0 SBX_BENCH_KUBERNETES_IMAGE=busybox:stable go run ./driver/kubernetes/bench
//
// The part simulated has nodes and pods played, so that there can be thousands. It needs an address and a certificate that the API server takes for a kubelet's:
//
//	CGO_ENABLED=0 go run ./driver/kubernetes/bench -run simulated -sandboxes 1000 -kubelet-address 192.0.2.1 -kubelet-certificate kubelet.crt -kubelet-key kubelet.key
//
// The image needs what the driver needs, and BusyBox's nc. Where kubectl has no context, or the cluster no agent-sandbox, that is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/sandboxfn/sbx/internal/measure"
)

func main() {
	only := flag.String("run", "", "a regular expression of the parts that run; empty is all")
	rounds := flag.Int("rounds", 9, "how often each contender runs")
	sandboxes := flag.Int("sandboxes", 50, "how many there are at the same time, where that is measured")
	var at kubelets
	flag.StringVar(&at.address, "kubelet-address", "", "the address of this machine at which the API server reaches kubelets that are played")
	flag.StringVar(&at.certificate, "kubelet-certificate", "", "the file of a certificate for that address, which the API server takes, and")
	flag.StringVar(&at.key, "kubelet-key", "", "of its key")
	playing := flag.Int("play", 0, "play nodes for so many pods in the namespace; the part simulated starts this program so")
	namespace := flag.String("namespace", "", "where they are")
	write := flag.Bool("write", false, "write the tables into "+measure.PerformanceFile+", and the ratios into "+measure.RatiosFile)
	check := flag.Bool("check", false, "compare the ratios with those in "+measure.RatiosFile)
	flag.Parse()
	if *playing > 0 {
		c, err := connect()
		if err == nil {
			c.namespace = *namespace
			err = play(context.Background(), c, *playing, at)
		}
		exit(err)
		return
	}
	r := &measure.Run{Program: "driver/kubernetes/bench", Rounds: *rounds}
	switch err := run(context.Background(), r, *only, *sandboxes, at); {
	case errors.Is(err, measure.ErrLeftOut):
		fmt.Fprintln(os.Stderr, err)
	case err != nil:
		exit(err)
	default:
		if *write {
			exit(r.WriteDown(strings.Join(append([]string{"CGO_ENABLED=0 go run ./driver/kubernetes/bench"}, os.Args[1:]...), " ")))
		}
		if *check {
			exit(r.Check())
		}
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, r *measure.Run, only string, sandboxes int, at kubelets) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	c, err := findCluster(ctx)
	if err != nil {
		return err
	}
	defer c.remove()
	b := &bench{r, c, sandboxes, at}
	return r.All(ctx, chosen, []measure.Part{
		{Name: "calls", Run: b.calls}, {Name: "starts", Run: b.starts}, {Name: "claims", Run: b.claims}, {Name: "many", Run: b.many}, {Name: "simulated", Run: b.simulated},
	})
}
