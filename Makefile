# `make` alone lists the targets.

# go.mod names the Go version; an older Go on this machine downloads it.
export GOTOOLCHAIN := auto

# Tools are built from source into ./bin, once for each version.
GOLANGCI_LINT_VERSION      := v2.15.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
GVISOR_VERSION             := v0.0.0-20260905035102-160fafc42237

GOLANGCI_LINT      := $(CURDIR)/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
PROTOC_GEN_GO      := $(CURDIR)/bin/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)
PROTOC_GEN_GO_GRPC := $(CURDIR)/bin/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)
RUNSC              := $(CURDIR)/bin/gvisor-$(GVISOR_VERSION)/runsc

# The folders of the repository's modules, and the platforms that must build.
MODULES   := $(shell find . -name go.mod -not -path '*/testdata/*' -exec dirname {} \; | sort)
PLATFORMS := $(foreach os,linux darwin windows,$(foreach arch,amd64 arm64,$(os)/$(arch)))

# Two images that a Docker Engine has or can pull, for its tests.
DOCKER_IMAGES ?= busybox:stable,debian:stable-slim

# Three images that a Kubernetes cluster has or can pull, for its tests: two with a shell, and one without; and a program that stops and starts
# parts of the cluster, if there is one: see .ci/cluster.
KUBERNETES_IMAGES ?= busybox:stable,debian:stable-slim,registry.k8s.io/pause:3.10
CLUSTER_CONTROL   ?=

# $(call each_module,COMMAND) runs COMMAND in every module and stops at the first that fails.
each_module = @set -e; for module in $(MODULES); do echo "[$$module] $(strip $(1))"; (cd $$module; $(1)); done

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: ## measure the Go standard library's source in sandboxes; DRIVER=docker in those of another driver
	SBX_DRIVER='$(DRIVER)' go run ./examples/gometrics

.PHONY: build
build: ## build everything
	$(call each_module,go build -o /dev/null ./...)

.PHONY: vet
vet: ## vet everything
	$(call each_module,go vet ./...)

.PHONY: test
test: ## run all tests
	@# Tests that build programs take long where nothing is built yet, or the machine is busy.
	$(call each_module,go test -timeout 30m ./...)

.PHONY: test-gvisor
test-gvisor: $(RUNSC) ## run the local driver's tests that need gVisor, with one built into ./bin
	PATH=$(dir $(RUNSC)):$$PATH go test -count=1 -run GVisor ./driver/local

.PHONY: test-docker
test-docker: export SBX_TEST_DOCKER := $(DOCKER_IMAGES)
test-docker: ## run the tests that need a Docker Engine: the one of DOCKER_HOST, with the two images of DOCKER_IMAGES, separated by a comma
	@# Without libraries, since what runs in an image must need none.
	CGO_ENABLED=0 go test -count=1 -timeout 30m ./driver/docker
	CGO_ENABLED=0 go test -count=1 -timeout 30m -run TestDelivery/docker ./internal/proof

.PHONY: test-kubernetes
test-kubernetes: export SBX_TEST_KUBERNETES := $(KUBERNETES_IMAGES)
test-kubernetes: export SBX_TEST_KUBERNETES_CONTROL := $(abspath $(CLUSTER_CONTROL))
test-kubernetes: ## run the tests that need a Kubernetes cluster: the one of KUBECONFIG, of a user who may make namespaces there
	cd driver/kubernetes && CGO_ENABLED=0 go test -count=1 -timeout 60m -ldflags='-s -w' .

.PHONY: race
race: ## run the tests under the race detector, without those that -short leaves out
	$(call each_module,go test -race -short -timeout 30m ./...)

.PHONY: prove
prove: ## try the promises about delivery: 10,000 trials of each way to end, on each driver; takes an hour
	go test -count=1 -v -timeout 4h -run TestDelivery ./internal/proof -trials 10000

.PHONY: survive
survive: ## try the local driver's survival: 1,000 sandboxes one by one, 200 at once, every process killed at each step of set-up
	go test -count=1 -v -timeout 1h -run 'TestNothingIsLeft|TestKilledAtEachStep|TestStoppable' ./driver/local -starts 1000 -at-once 200 -every-victim

.PHONY: prove-commands
prove-commands: ## try commands in sandboxes: 2 GiB through their pipes, 10,000 short ones
	go test -count=1 -v -timeout 1h -run 'TestWhatGoesThroughPipesIsWhole|TestShortCommandsLeaveNothing' . -pipe-mib 2048 -short-commands 10000

# As make finds it, or any: it is printed.
SEED := 0

.PHONY: chaos
chaos: ## a million calls in sandboxes that are killed, stopped, filled and cut, on each driver, and ten million in 5,000 simulated ones; SEED=n repeats a run
	go test -count=1 -v -timeout 1h -run TestChaos ./internal/proof -chaos-calls 1000000 -chaos-seed $(SEED)
	go test -count=5 -v -timeout 1h -run TestJournalSurvivesKills .
	go test -count=1 -v -timeout 1h -run TestSimulation ./internal/pool -simulate 10000000 -seed $(SEED)

.PHONY: bench
bench: ## measure everything beside what one would use instead, and write docs/performance.md; takes five minutes of an idle machine, and some more where there are engines
	CGO_ENABLED=0 go run ./bench/sandboxes
	CGO_ENABLED=0 go run ./bench/calls -write
	CGO_ENABLED=0 go run ./bench/containers -write
	CGO_ENABLED=0 go run ./driver/kubernetes/bench -write

.PHONY: bench-check
bench-check: ## show what is more than 20 % worse, beside what one would use instead, than when `make bench` wrote it down
	CGO_ENABLED=0 go run ./bench/calls -check
	CGO_ENABLED=0 go run ./bench/containers -check
	CGO_ENABLED=0 go run ./driver/kubernetes/bench -check

.PHONY: bench-pieces
bench-pieces: ## run the benchmarks of the pieces; benchstat compares what two runs print
	$(call each_module,go test -run '^$$' -bench . -benchmem ./...)

.PHONY: test-cgroup2
test-cgroup2: ## test limits on cgroup version 2, in a virtual machine; needs qemu and a kernel, see the script
	CGO_ENABLED=0 go test -c -ldflags='-s -w' -o bin/local.test ./driver/local
	driver/local/testdata/cgroup2.sh bin/local.test

.PHONY: lint
lint: $(GOLANGCI_LINT) ## run the linters
	@# Facts from an older run can be incomplete, and findings then are wrong: every run begins without any.
	$(GOLANGCI_LINT) cache clean
	$(call each_module,$(GOLANGCI_LINT) run ./...)

.PHONY: cross
cross: $(PLATFORMS:%=cross/%) ## build and vet for every platform

.PHONY: $(PLATFORMS:%=cross/%)
$(PLATFORMS:%=cross/%): export CGO_ENABLED := 0
$(PLATFORMS:%=cross/%): export GOOS = $(word 2,$(subst /, ,$@))
$(PLATFORMS:%=cross/%): export GOARCH = $(word 3,$(subst /, ,$@))
$(PLATFORMS:%=cross/%):
	@echo "== $(GOOS)/$(GOARCH)"
	$(call each_module,go build -o /dev/null ./...)
	$(call each_module,go vet ./...)

# Nothing in the other modules depends on the architecture, and their dependencies take long to compile: once for each system.
$(filter %/amd64,$(PLATFORMS:%=cross/%)): MODULES := .

.PHONY: generate
generate: $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC) ## write the generated files anew
	@command -v protoc >/dev/null || { echo 'protoc is missing: apt-get install protobuf-compiler (brew install protobuf)' >&2; exit 1; }
	protoc --proto_path=internal/wire/wirepb \
		--plugin=protoc-gen-go=$(PROTOC_GEN_GO) --go_out=internal/wire/wirepb --go_opt=paths=source_relative \
		--plugin=protoc-gen-go-grpc=$(PROTOC_GEN_GO_GRPC) --go-grpc_out=internal/wire/wirepb --go-grpc_opt=paths=source_relative \
		wire.proto sandbox.proto
	$(call each_module,go generate ./...)

.PHONY: tidy-check
tidy-check: ## fail where go.mod or go.sum is not tidy
	$(call each_module,go mod tidy -diff)

$(GOLANGCI_LINT):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint $@

# Static, or runsc can't execute itself in the empty root that it makes.
$(RUNSC):
	CGO_ENABLED=0 GOBIN=$(CURDIR)/bin go install gvisor.dev/gvisor/runsc@$(GVISOR_VERSION)
	mkdir -p $(dir $@)
	mv bin/runsc $@

$(PROTOC_GEN_GO):
	GOBIN=$(CURDIR)/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	mv bin/protoc-gen-go $@

$(PROTOC_GEN_GO_GRPC):
	GOBIN=$(CURDIR)/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	mv bin/protoc-gen-go-grpc $@
