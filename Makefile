# The two commands to know are `make serve` and `make test`; `make help` lists the rest.

# Where the server and the tests find ONNX Runtime. Set it to use a library that is already here.
ORT_DYLIB_PATH ?= $(CURDIR)/.cache/onnxruntime/libonnxruntime.so
export ORT_DYLIB_PATH

# Flags for `make serve`, as in: make serve SERVE_ARGS='--listen 0.0.0.0:8080'
SERVE_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve build test fmt lint doc image image-test bench fuzz-api onnxruntime clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: onnxruntime build ## build the server and run it on http://127.0.0.1:8080 (SERVE_ARGS: its flags)
	@exec target/release/sightline serve $(SERVE_ARGS)

build: ## compile target/release/sightline
	cargo build --release --locked

test: onnxruntime ## run every test
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace --locked && cargo test --doc --workspace --locked; \
	else \
		set -x; cargo test --workspace --locked; \
	fi
	@echo "Every test passed. Next: make serve starts the server, make lint checks style."

fmt: ## format the code
	cargo fmt --all

lint: ## check formatting, then clippy with warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc: ## build the documentation, private items included, with warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

image: ## build the container image sightline:latest
	@docker/image.sh

image-test: ## build the image and check what it promises (skipped where no engine answers)
	@docker/image-test.sh

bench: onnxruntime ## run the benchmarks
	cargo bench --workspace --locked

fuzz-api: onnxruntime ## hold the running server to its openapi.yaml with Schemathesis
	@scripts/schemathesis.sh

onnxruntime: ## fetch ONNX Runtime into .cache/ (unless ORT_DYLIB_PATH names another library)
ifeq ($(ORT_DYLIB_PATH),$(CURDIR)/.cache/onnxruntime/libonnxruntime.so)
	@scripts/fetch-onnxruntime.sh
endif

clean: ## remove everything built or fetched
	cargo clean
	rm -rf .cache
