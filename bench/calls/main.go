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
)

var parts = []part{
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
	{"docker", inDocker},
}

func main() {
	if folder, ok := peerOf(); ok {
		exit(servePeers(folder))
	}
	only := flag.String("run", "", "a regular expression of the parts that run; empty is all")
	rounds := flag.Int("rounds", 9, "how often each contender runs")
	calls := flag.Int("growth", 1_000_000, "after how many calls memory is looked at again")
	inputs := flag.Int("inputs", 1_000_000, "how many inputs the long map has whose memory is looked at")
	write := flag.Bool("write", false, "write the tables into "+performanceFile+", and the ratios into "+ratiosFile)
	check := flag.Bool("check", false, "compare the ratios with those in "+ratiosFile)
	folder := flag.String("profile", "", "write profiles of warm calls to this folder instead")
	flag.Parse()
	ctx := context.Background()
	if *folder != "" {
		exit(profile(ctx, *folder))
	}
	b := &bench{rounds: *rounds, growth: *calls, inputs: *inputs, tables: map[string]string{}}
	err := b.run(ctx, *only)
	if err == nil && *write {
		err = b.writeDown(strings.Join(append([]string{"go run ./bench/calls"}, os.Args[1:]...), " "))
	}
	if err == nil && *check {
		err = b.check()
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

func (b *bench) run(ctx context.Context, only string) (err error) {
	if b.only, err = regexp.Compile(only); err != nil {
		return err
	}
	if b.peers, err = startPeers(ctx, "/proc/self/exe"); err != nil {
		return err
	}
	defer b.peers.close()
	return b.all(ctx, parts)
}
