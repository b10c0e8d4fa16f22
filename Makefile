# What people type. Each target says what it does in `make help`; the work itself is in the Rust programs of e2e/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

CARGO ?= cargo
NODES ?= 3
# With KUBECONFIG set, demo, test and bench use that cluster instead of a local one. It must be able to pull the images.
LOCAL := $(if $(KUBECONFIG),,yes)
STATE := $(CURDIR)/.nestling
BIN := $(STATE)/bin
RELEASE := $(CURDIR)/target/release
HOSTCLUSTER := $(RELEASE)/hostcluster

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: demo
demo: installed ## A local host cluster with Nestling, a tenant in it and a workload in that (again: under 2 minutes)
	$(RELEASE)/demo tenant

.PHONY: demo-down
demo-down: ## Remove what demo, test and bench have started, whatever state it is in
	if [[ -n "$(LOCAL)" ]]; then
		$(CARGO) build --release --workspace --bins
		$(HOSTCLUSTER) down
		rm -rf $(STATE)/demo $(STATE)/tenants
	else
		$(RELEASE)/demo uninstall
	fi

.PHONY: test
test: installed ## All tests: unit, rules in network namespaces, seams on the real thing, cluster tests, fault tests
	$(CARGO) test --workspace
	if [[ -n "$(LOCAL)" ]]; then $(MAKE) --no-print-directory test-seams; fi
	$(CARGO) test --workspace --test cluster -- --ignored
	$(CARGO) test --workspace --test faults -- --ignored --test-threads=1

# The contracts that fakes pass, against a container runtime and a control plane of the local host cluster.
.PHONY: test-seams
test-seams:
	mkdir -p $(STATE)/programs
	find "$${NESTLING_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nestling}/bin" -type f -printf '%T@ %p\n' | sort -n |
		while read -r _ program; do ln -sf "$$program" $(STATE)/programs/; done
	NESTLING_BIN_DIR=$(STATE)/programs $(CARGO) test --workspace --test control_plane_smoke -- --ignored
	NESTLING_CRI_SOCKET=/run/containerd/containerd.sock \
		$(CARGO) --config "target.'cfg(all())'.runner=['$(HOSTCLUSTER)', 'node', 'exec', 'node-1', '--']" test -p nestling-node-agent --lib -- --ignored

.PHONY: test-unit
test-unit: ## Tests that need no cluster
	$(CARGO) test --workspace

.PHONY: bench
bench: installed ## Measure against the host and bare programs, and write docs/benchmarks.md
	$(RELEASE)/bench

.PHONY: check
check: ## Formatting, lints, generated files, chart, licences: what CI asks for besides tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(MAKE) --no-print-directory generate
	git diff --exit-code -- charts/nestling/crds
	$(MAKE) --no-print-directory lint-chart deny

.PHONY: generate
generate: ## Write generated files: the CRD in the chart
	$(CARGO) run --quiet -p nestling-crds --bin crdgen

.PHONY: lint-chart
lint-chart: ## Lint the Helm chart
	CGO_ENABLED=0 go -C e2e/hostcluster/tools/helm build -trimpath -ldflags '-s -w' -o $(STATE)/tools/helm helm.sh/helm/v4/cmd/helm
	$(STATE)/tools/helm lint --strict --quiet charts/nestling
	$(STATE)/tools/helm template nestling charts/nestling --namespace nestling-system > /dev/null

.PHONY: deny
deny: ## Licences, banned crates and sources of dependencies (cargo-deny)
	if ! command -v cargo-deny > /dev/null; then
		echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2
		exit 1
	fi
	cargo-deny --offline check bans licenses sources

.PHONY: images
images: programs ## Write .nestling/images/*.tar: our three programs as OCI images
	$(RELEASE)/images

# Everything that is compiled, with one set of features, so that nothing is compiled twice.
.PHONY: programs
programs:
	$(CARGO) build --release --workspace --bins
	mkdir -p $(BIN)
	ln -sf $(RELEASE)/kubectl-nestling $(BIN)/kubectl-nestling

.PHONY: host
host: programs ## Start the local host cluster (NODES=3), or do nothing when it is healthy
	if [[ -n "$(LOCAL)" ]]; then $(HOSTCLUSTER) up --nodes $(NODES) --at-least; fi

.PHONY: installed
installed: host images
	if [[ -z "$(LOCAL)" ]]; then echo "==> using the cluster of KUBECONFIG=$(KUBECONFIG)"; fi
	if [[ -n "$(LOCAL)" ]]; then $(HOSTCLUSTER) load-image $(STATE)/images/*.tar; fi
	$(RELEASE)/demo install
