# The entry points; `make help` lists them. The work itself is in the Rust programs of e2e/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.SILENT:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Dependencies are those of Cargo.lock; `make CARGO_FLAGS= …` lets cargo change it.
CARGO_FLAGS ?= --locked
NODES ?= 3
STATE := $(CURDIR)/.nestling
BIN := $(STATE)/bin
CHECK := $(STATE)/check
RELEASE := $(CURDIR)/target/release
HOSTCLUSTER := $(RELEASE)/hostcluster
# With KUBECONFIG set, demo, test and bench use that cluster instead of a local one. It must be able to pull the images. The kubeconfigs
# of the local host cluster, which `make demo` prints, select the local host cluster.
LOCAL := $(if $(filter-out $(STATE)/host/kubeconfig $(STATE)/demo/host.kubeconfig,$(abspath $(KUBECONFIG))),,yes)
ifeq ($(LOCAL),yes)
unexport KUBECONFIG
endif

.PHONY: help
help: ## Show this list
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: demo
demo: installed ## A local host cluster with Nestling, a tenant in it and a workload in that (again: under 2 minutes)
	$(RELEASE)/demo tenant

.PHONY: demo-down
demo-down: ## Remove what demo, test and bench have started, whatever state it is in
	if [[ -n "$(LOCAL)" ]]; then
		$(CARGO) build $(CARGO_FLAGS) --release --workspace --bins
		$(HOSTCLUSTER) down
		rm -rf $(STATE)/demo $(STATE)/tenants
	else
		$(RELEASE)/demo uninstall
	fi

.PHONY: test
test: installed ## All tests: unit, rules in network namespaces, seams on the real thing, cluster tests, fault tests
	$(MAKE) test-unit
	if [[ -n "$(LOCAL)" ]]; then $(MAKE) test-seams; fi
	echo "==> cluster tests"
	$(CARGO) test $(CARGO_FLAGS) --workspace --test cluster -- --ignored
	echo "==> fault tests"
	$(CARGO) test $(CARGO_FLAGS) --workspace --test faults -- --ignored --test-threads=1

# The contracts that fakes pass, against a container runtime and a control plane of the local host cluster.
.PHONY: test-seams
test-seams:
	echo "==> seams, against the real thing"
	mkdir -p $(STATE)/programs
	find "$${NESTLING_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nestling}/bin" -type f -printf '%T@ %p\n' | sort -n |
		while read -r _ program; do ln -sf "$$program" $(STATE)/programs/; done
	NESTLING_BIN_DIR=$(STATE)/programs $(CARGO) test $(CARGO_FLAGS) --workspace --test control_plane_smoke -- --ignored
	NESTLING_CRI_SOCKET=/run/containerd/containerd.sock \
		$(CARGO) --config "target.'cfg(all())'.runner=['$(HOSTCLUSTER)', 'node', 'exec', 'node-1', '--']" test $(CARGO_FLAGS) -p nestling-node-agent --lib -- --ignored

.PHONY: test-unit
test-unit: ## Tests that need no cluster
	echo "==> tests that need no cluster"
	mkdir -p $(CHECK)
	rm -f $(CHECK)/snapshots
	INSTA_SNAPSHOT_REFERENCES_FILE=$(CHECK)/snapshots $(CARGO) test $(CARGO_FLAGS) --workspace
	unused=$$(comm -13 <(xargs -d '\n' realpath -m -- < $(CHECK)/snapshots | sort -u) <(git ls-files '*.snap' | xargs -d '\n' realpath -- | sort))
	if [[ -n "$$unused" ]]; then echo -e "error: no test uses these snapshots:\n$$unused" >&2; exit 1; fi

.PHONY: bench
bench: installed ## Measure against the host and bare programs, and write its part of docs/benchmarks.md
	$(RELEASE)/bench

.PHONY: bench-scale
bench-scale: programs ## Measure the operator with 1,000 simulated tenants, and write its part of docs/benchmarks.md (30 minutes)
	$(RELEASE)/bench-scale

.PHONY: check
check: ## What CI asks for besides tests: formatting, lints, documentation, generated files, chart, dependencies
	echo "==> formatting"
	$(CARGO) fmt --all --check
	echo "==> lints"
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets --quiet -- -D warnings
	echo "==> documentation of the code"
	# Written for readers of the code, so links to private items are fine.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items --quiet
	echo "==> imports, links and versions"
	$(CARGO) test $(CARGO_FLAGS) --quiet -p nestling-e2e --test layout --test project
	echo "==> generated files"
	$(MAKE) generate
	git diff --exit-code -- charts/nestling/crds
	$(MAKE) lint-chart book dependencies

.PHONY: generate
generate: ## Write generated files: the CRD in the chart
	$(CARGO) run $(CARGO_FLAGS) --quiet -p nestling-crds --bin crdgen

# The schemas are made of the Kubernetes that the local host cluster runs, so nothing is downloaded besides Go modules.
.PHONY: lint-chart
lint-chart: ## Check the Helm chart, and the examples of the documentation, against the schemas of Kubernetes and of the CRD
	echo "==> chart and examples"
	CGO_ENABLED=0 go -C e2e/hostcluster/tools/helm build -trimpath -ldflags '-s -w' -o $(CHECK)/helm helm.sh/helm/v4/cmd/helm
	CGO_ENABLED=0 go -C e2e/tools/kubeconform build -trimpath -ldflags '-s -w' -o $(CHECK)/kubeconform github.com/yannh/kubeconform/cmd/kubeconform
	go -C e2e/hostcluster/tools/kubernetes mod download k8s.io/kubernetes
	kubernetes=$$(go -C e2e/hostcluster/tools/kubernetes list -m -f '{{.Dir}}' k8s.io/kubernetes)
	rm -rf $(CHECK)/schemas $(CHECK)/examples $(CHECK)/chart
	mkdir -p $(CHECK)/chart
	$(CARGO) run $(CARGO_FLAGS) --quiet -p nestling-e2e --bin schemas -- --swagger $$kubernetes/api/openapi-spec/swagger.json \
		--crd charts/nestling/crds/virtualclusters.yaml --output $(CHECK)/schemas --examples $(CHECK)/examples \
		README.md docs/guide/*.md charts/nestling/templates/NOTES.txt
	for values in charts/nestling/values.yaml charts/nestling/ci/*.yaml; do
		$(CHECK)/helm lint --strict --quiet charts/nestling --values $$values
		$(CHECK)/helm template nestling charts/nestling --namespace nestling-system --include-crds --values $$values \
			> $(CHECK)/chart/$$(basename $$values)
	done
	$(CHECK)/kubeconform -strict -summary -schema-location '$(CHECK)/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' \
		$(CHECK)/chart $(CHECK)/examples e2e/examples
	NESTLING_RENDERED=$(CHECK)/chart $(CARGO) test $(CARGO_FLAGS) --quiet --workspace --test chart -- --ignored

.PHONY: book
book: ## Build the documentation into target/book (mdbook)
	echo "==> book"
	$(call need,mdbook)
	mdbook build docs

.PHONY: dependencies
dependencies: ## Licences, duplicates, banned crates and sources of dependencies, and those that nothing uses (cargo-deny, cargo-machete)
	echo "==> dependencies"
	$(call need,cargo-deny)
	$(call need,cargo-machete)
	# cargo-deny reads the crates of all platforms.
	$(CARGO) fetch $(CARGO_FLAGS) --quiet
	cargo-deny --offline --locked check bans licenses sources
	cargo-machete --skip-target-dir

need = if ! command -v $(1) > /dev/null; then echo '$(1) is missing: PATH="$$(.ci/install):$$PATH" installs it into the cache' >&2; exit 1; fi

.PHONY: images
images: programs ## Write .nestling/images/*.tar: our three programs as OCI images
	echo "==> images"
	$(RELEASE)/images

# Everything that is compiled, with one set of features, so that nothing is compiled twice.
.PHONY: programs
programs:
	echo "==> programs"
	$(CARGO) build $(CARGO_FLAGS) --release --workspace --bins
	mkdir -p $(BIN)
	ln -sf $(RELEASE)/kubectl-nestling $(BIN)/kubectl-nestling

.PHONY: host
host: programs ## Start the local host cluster (NODES=3), or do nothing when it is healthy
	if [[ -n "$(LOCAL)" ]]; then $(HOSTCLUSTER) up --nodes $(NODES) --at-least; fi

.PHONY: installed
installed: host images
	if [[ -n "$(LOCAL)" ]]; then
		$(HOSTCLUSTER) load-image $(STATE)/images/*.tar
	else
		echo "==> using the cluster of KUBECONFIG=$(KUBECONFIG)"
	fi
	$(RELEASE)/demo install
