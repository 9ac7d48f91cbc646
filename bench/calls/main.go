// Calls measures what calls cost, beside what one would use instead: a plain socket, gRPC, net/rpc, and pools of processes in Python. What
// is compared takes turns, so that other load on the machine meets all alike.
//
//	CGO_ENABLED=0 go run ./bench/calls
//
// Peers in Python that are not installed are left out.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/sandboxfn/sbx/internal/measure"
)

// bench is one run of this program.
type bench struct {
	measure.Run
	growth int
	inputs int // of the long map
	peers  *peers
}

var parts = []struct {
	name string
	run  func(ctx context.Context, b *bench, w *strings.Builder) error
}{
	{"lone", lone},
	{"in-flight", inFlight},
	{"map", mapping},
	{"values", values},
	{"cold", cold},
	{"fresh", fresh},
	{"memory", memory},
	{"flat", flat},
	{"journal", journaled},
	{"scale", scale},
	{"own", own},
}

func main() {
	if folder, ok := peerOf(); ok {
		exit(servePeers(folder))
	}
	only := flag.String("run", "", "a regular expression of the parts that run; empty is all")
	rounds := flag.Int("rounds", 9, "how often each contender runs")
	calls := flag.Int("growth", 1_000_000, "after how many calls memory is looked at again")
	inputs := flag.Int("inputs", 1_000_000, "how many inputs the long map has whose memory is looked at")
	write := flag.Bool("write", false, "write the tables into "+measure.PerformanceFile+", and the ratios into "+measure.RatiosFile)
	check := flag.Bool("check", false, "compare the ratios with those in "+measure.RatiosFile)
	folder := flag.String("profile", "", "write profiles of warm calls to this folder instead")
	flag.Parse()
	ctx := context.Background()
	if *folder != "" {
		exit(profile(ctx, *folder))
	}
	b := &bench{Run: measure.Run{Program: "bench/calls", Rounds: *rounds}, growth: *calls, inputs: *inputs}
	err := b.run(ctx, *only)
	if err == nil && *write {
		err = b.WriteDown(strings.Join(append([]string{"go run ./bench/calls"}, os.Args[1:]...), " "))
	}
	if err == nil && *check {
		err = b.Check()
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (b *bench) run(ctx context.Context, only string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	if b.peers, err = startPeers(ctx, "/proc/self/exe"); err != nil {
		return err
	}
	defer b.peers.close()
	b.With = b.peers.versions()
	all := make([]measure.Part, len(parts))
	for i, p := range parts {
		all[i] = measure.Part{Name: p.name, Run: func(ctx context.Context, w *strings.Builder) error { return p.run(ctx, b, w) }}
	}
	return b.All(ctx, chosen, all)
}
