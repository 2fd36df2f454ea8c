# `make serve` runs the server and `make test` runs every test; `make help` lists all targets.

# Path of the ONNX Runtime library for the server and the tests. Set it to use an existing library.
ORT_DYLIB_PATH ?= $(CURDIR)/.cache/onnxruntime/libonnxruntime.so
export ORT_DYLIB_PATH

# Flags for `make serve`, for example: make serve SERVE_ARGS='--listen 0.0.0.0:8080'
SERVE_ARGS ?=

# Where `make install` puts the server; DESTDIR stands for / while a package is built.
PREFIX ?= /usr/local
DESTDIR ?=

# Seconds for each target of `make fuzz`.
export FUZZ_SECONDS ?= 60
# Scenarios and flags of `make load-test`, for example: make load-test SCENARIOS=bombs LOAD_ARGS='--seconds 10'
SCENARIOS ?= open-loop retry-storm bombs connections hostile-models keys drain reload
LOAD_ARGS ?=
# Flags of `make tables` and `make predict-ratio`, for example: make tables TABLES_ARGS='--rounds 1 --round-ms 200'
TABLES_ARGS ?=
PREDICT_ARGS ?=
# The scenarios hold thousands of connections; the server inherits the limit.
RUN_LOAD = ulimit -n 20000 2>/dev/null || ulimit -n "$$(ulimit -Hn)"; exec target/debug/examples/load

.DEFAULT_GOAL := help
.PHONY: help serve build install uninstall test fmt lint example-config doc book docs-test image image-test bench \
	load-test soak-test load-binary fuzz fuzz-api mutation-test writers-test first-contact onnxruntime clean \
	browser-test stack-test swarm-test proxies-test manifests-test deb deb-test reproducible plan-check tables \
	predict-ratio

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: onnxruntime build ## build the server and run it on http://127.0.0.1:8080 (SERVE_ARGS=... passes flags)
	@exec target/release/sightline serve $(SERVE_ARGS)

build: ## compile target/release/sightline
	cargo build --release --locked

# `sudo make install` after `make build` works, also if root has no cargo.
install: onnxruntime ## install the server and ONNX Runtime (PREFIX=/usr/local; DESTDIR is honoured)
	@if command -v cargo >/dev/null || ! test -x target/release/sightline; then $(MAKE) build; fi
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install.sh install

uninstall: ## remove what make install has installed (with the same PREFIX)
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install.sh uninstall

test: onnxruntime ## run every test
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace --locked && cargo test --doc --workspace --locked; \
	else \
		set -x; cargo test --workspace --locked; \
	fi
	@echo "Every test passed. Next: make serve starts the server, make lint checks format and clippy."

fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	cargo fmt --manifest-path browser-tests/Cargo.toml

lint: ## check the format, then run clippy with warnings as errors
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fmt --manifest-path browser-tests/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

example-config: ## write docker/sightline.example.toml from the settings in the code
	cargo run --quiet --locked -- config example > docker/sightline.example.toml.new
	mv docker/sightline.example.toml.new docker/sightline.example.toml

doc: ## build rustdoc with private items and warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

book: ## build docs/ as a book in target/book (needs mdBook: cargo install mdbook@0.5.4)
	@mdbook build
	@python3 scripts/book.py finish target/book
	@echo "Built target/book/index.html."

docs-test: onnxruntime build ## run the commands of README.md and docs/ against the release server
	@python3 scripts/docs-test.py

image: ## build the container image sightline:latest
	@docker/image.sh

image-test: ## build the container image and test it (skipped if Docker does not respond)
	@docker/image-test.sh

stack-test: build ## start the compose stack, and check its dashboard and alerts (skipped if Docker does not respond)
	@docker/stack-test.sh

swarm-test: build ## lose replicas of a Docker Swarm under load (skipped if Docker does not respond)
	@docker/swarm-test.sh

proxies-test: onnxruntime build ## run HAProxy and nginx in front of two servers, one of which is full
	@docker/proxies-test.sh

manifests-test: ## validate the manifests for Kubernetes and the configurations of the proxies
	@scripts/manifests-test.sh
deb: onnxruntime ## build a Debian package in target/deb/
	@scripts/deb.sh

deb-test: onnxruntime ## build the Debian package, install, run and remove it in a fresh Debian system (as root)
	@package="$$(scripts/deb.sh)" && scripts/deb-test.sh "$$package"

reproducible: ## build the committed sources twice in different folders and compare the binaries
	@scripts/reproducible.sh

plan-check: onnxruntime build ## compare sightline plan with five measured loads (needs a machine without other load)
	@scripts/plan-check.sh

bench: onnxruntime ## run the benchmarks
	cargo bench --workspace --locked

tables: onnxruntime build ## measure the published tables; write the charts and tables of docs/ and README.md
	@scripts/tables.py $(TABLES_ARGS)

predict-ratio: onnxruntime build ## compare the rate of predict on 2,000 images with what the cores can compute
	@scripts/predict-ratio.py $(PREDICT_ARGS)

fuzz: ## run the fuzz targets under AddressSanitizer (FUZZ_SECONDS=60 for each)
	@scripts/fuzz.sh

browser-test: onnxruntime build ## drive the web pages in Chromium (needs chromium and chromium-driver)
	@scripts/browser-test.sh

first-contact: onnxruntime build ## try the first steps of a new user, and the mistakes that people make
	@tests/first_contact.sh

mutation-test: onnxruntime build ## send 50,000 mutated images to the release server
	SIGHTLINE_TEST_BINARY=$(CURDIR)/target/release/sightline \
		cargo test --test suite --locked -- service::mutation --ignored --nocapture

writers-test: onnxruntime build ## export into one folder from several processes, and kill some of them
	SIGHTLINE_TEST_BINARY=$(CURDIR)/target/release/sightline \
		cargo test --test suite --locked -- commands::writers_race --ignored --nocapture

load-test: onnxruntime build load-binary ## measure the release server under overload and attacks (takes 45 minutes)
	@$(RUN_LOAD) $(SCENARIOS) $(LOAD_ARGS)

soak-test: onnxruntime build load-binary ## send 100,000 valid and hostile requests to the release server
	@$(RUN_LOAD) soak $(LOAD_ARGS)

load-binary:
	cargo build --workspace --locked --example load

fuzz-api: onnxruntime ## compare the running server with its openapi.yaml, using Schemathesis
	@scripts/schemathesis.sh

onnxruntime: ## fetch ONNX Runtime into .cache/ (not if ORT_DYLIB_PATH names another library)
ifeq ($(ORT_DYLIB_PATH),$(CURDIR)/.cache/onnxruntime/libonnxruntime.so)
	@scripts/fetch-onnxruntime.sh
endif

clean: ## remove all built and fetched files
	cargo clean
	rm -rf .cache
