# Every target sets itself up on a fresh Debian machine: what it needs beyond
# Go is installed by name. Privileged tests need root; without it they say so
# and are skipped.
SHELL   := /bin/bash
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/sallyport-dev/sallyport/cli.version=$(VERSION)
BIN     := bin/sallyport
PKGS    := ./...

export CGO_ENABLED ?= 0

.PHONY: build demo test test-unprivileged race bench lint generate browser cross image chart cluster cluster-down e2e e2e-short parity clean

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/sallyport

demo: build
	$(BIN) demo

# With root every privileged test must run: a skip is a failure then.
test: build
	if [ "$$(id -u)" = 0 ]; then export SALLYPORT_REQUIRE_ROOT=1; fi; \
	$(GO) test -count=1 -timeout 60m -p 1 $(PKGS)
	cd deploy/crdtest && $(GO) vet ./... && $(GO) test -count=1 ./...

race:
	command -v gcc >/dev/null || (apt-get update -qq && apt-get install -y -qq gcc libc6-dev)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m -p 1 ./model/... ./engine/... ./dialect/... ./manifest/... ./policytest/... ./report/... ./datapath

bench: build
	$(GO) test -run '^$$' -bench . -benchtime 5x -timeout 30m -p 1 ./engine/... ./cli/... ./datapath/...

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt'ed:"; echo "$$out"; exit 1; fi
	$(GO) vet $(PKGS)
	$(GO) mod verify

# Dialects against their vendors' own code, which are modules of their own: they
# are large. More random policies: make parity ARGS='-cases 20000 -seed 5'.
parity:
	cd dialect/cilium/parity && $(GO) vet ./... && $(GO) test -count=1 -timeout 60m -v -run . . -args $(ARGS)

# The BPF objects are committed, so only a change of the C source needs clang.
generate:
	command -v clang-14 >/dev/null || (apt-get update -qq && apt-get install -y -qq clang-14 llvm-14 libbpf-dev)
	$(GO) generate ./datapath/bpf

# The page of matrix -o html in a real browser, held against the engine. With
# SALLYPORT_SHOTS=/a/folder it leaves pictures there.
browser:
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)
	command -v node >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs)
	command -v npm >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends npm)
	cd report/browsertest && npm ci --ignore-scripts --no-audit --no-fund
	SALLYPORT_REQUIRE_BROWSER=1 $(GO) test -count=1 ./report/browsertest

# The agent and the lab are Linux's; everything offline runs on macOS as well.
cross:
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/sallyport
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/sallyport

# An OCI image, without docker: ctr -n k8s.io images import dist/sallyport-image.tar
IMAGE  ?= sallyport:dev
ARCHES ?= amd64 arm64
image:
	for a in $(ARCHES); do \
		GOOS=linux GOARCH=$$a $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/linux-$$a/sallyport ./cmd/sallyport || exit 1; \
	done
	$(GO) run ./deploy/image -name $(IMAGE) -version $(VERSION) -o dist/sallyport-image.tar $(ARCHES:%=bin/linux-%/sallyport)

# The plain manifests, and the Helm chart as an archive, both from deploy/chart.
chart:
	$(GO) test -count=1 ./deploy -update
	mkdir -p dist
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C deploy --transform 's,^chart,sallyport,' -chf - chart | gzip -n > dist/sallyport-chart.tgz

# A real Kubernetes of three nodes on this machine, to play with. The first
# time it builds Kubernetes, which takes ten minutes on two cores. Other ones:
# make cluster ARGS='-nodes 5 -cni bridge'.
cluster:
	cd e2e && $(GO) run ./cmd/cluster up $(ARGS)

cluster-down:
	cd e2e && $(GO) run ./cmd/cluster down

# There is one cluster on a machine, so packages run one after the other. The
# second run has pods behind bridges, and addresses of both families.
e2e: build
	if [ "$$(id -u)" = 0 ]; then export SALLYPORT_REQUIRE_ROOT=1; fi; \
	cd e2e && $(GO) vet ./... && $(GO) test -count=1 -timeout 60m -p 1 -v ./... && \
	SALLYPORT_E2E_CNI=bridge SALLYPORT_E2E_DUAL=1 $(GO) test -count=1 -timeout 60m -p 1 -v -short ./cluster ./provider

# What CI has time for: upstream's suite with its negative control, and our own
# tests of the provider, shortened. How soon a policy holds is not asked of a
# machine that may be busy.
e2e-short: build
	if [ "$$(id -u)" = 0 ]; then export SALLYPORT_REQUIRE_ROOT=1; fi; \
	cd e2e && $(GO) vet ./... && $(GO) test -count=1 -timeout 60m -p 1 -v ./suite && \
	$(GO) test -count=1 -timeout 60m -p 1 -v -short -skip '^TestLatency$$' ./provider

clean:
	rm -rf bin dist
