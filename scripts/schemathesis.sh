#!/usr/bin/env bash
# Tests a running server against openapi.yaml: starts the server on a free loopback port and runs all of
# Schemathesis's checks on the /v1, /v2 and health routes. Fails if a response violates the contract or the
# server exits. The server loads the built-in model and the variant `320` of a segmentation network with
# generated weights.
#
#   scripts/schemathesis.sh [FLAG...]      FLAGs are passed to `schemathesis run`
#
# Environment:
#   SIGHTLINE_BIN   server to test (default: target/release/sightline, built first)
#   MAX_EXAMPLES    generated cases per operation and phase (default: 100)
#   TIME_LIMIT      seconds after which Schemathesis is stopped and the test fails (default: 900)
set -euo pipefail

readonly VERSION=4.32.5
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly VENV="$ROOT/.cache/venv"
readonly WORK="$ROOT/.cache/schemathesis"
readonly MODELS="$WORK/models"
readonly SEGMENTATION=lraspp_mobilenet_v3_large
readonly ROUTES='^/(v1|v2|health)'

fail() {
    echo "schemathesis.sh: $*" >&2
    exit 1
}

# install: installs the pinned Schemathesis from PyPI into .cache/venv.
install() {
    if [[ "$("$VENV/bin/schemathesis" --version 2>/dev/null)" == *" $VERSION" ]]; then
        return
    fi
    echo "schemathesis.sh: installing Schemathesis $VERSION into .cache/venv"
    python3 -m venv --clear "$VENV" ||
        fail "Python 3.10 or newer with venv is needed (Debian, Ubuntu: apt-get install python3-venv)"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION"
}

# export_network BINARY: exports the segmentation network into $MODELS. Not cached, since it takes only 2 s.
export_network() {
    local weights="$WORK/$SEGMENTATION.safetensors"
    rm -rf "$MODELS"
    mkdir -p "$MODELS"
    python3 "$ROOT/scripts/formula-checkpoint.py" "$SEGMENTATION" "$weights"
    "$1" export "$SEGMENTATION" --weights "$weights" -o "$MODELS/$SEGMENTATION" >/dev/null ||
        fail "exporting $SEGMENTATION failed"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

is_ready() {
    python3 - "$1/health/ready" 2>/dev/null <<'PYTHON'
import sys, urllib.request

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
direct.open(sys.argv[1], timeout=5).close()
PYTHON
}

stop_server() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}

fail_with_log() {
    echo "schemathesis.sh: last lines of the server's log:" >&2
    tail -n 30 "$WORK/server.log" >&2
    fail "$@"
}

wait_until_ready() {
    local deadline=$((SECONDS + 60))
    until is_ready "$1"; do
        kill -0 "$server" 2>/dev/null || fail_with_log "the server exited before it was ready"
        ((SECONDS < deadline)) || fail_with_log "the server was not ready after 60 s"
        sleep 0.2
    done
}

main() {
    local binary="${SIGHTLINE_BIN:-$ROOT/target/release/sightline}" url status=0
    mkdir -p "$WORK"
    install
    if [[ -z "${ORT_DYLIB_PATH:-}" ]]; then
        "$ROOT/scripts/fetch-onnxruntime.sh"
        export ORT_DYLIB_PATH="$ROOT/.cache/onnxruntime/libonnxruntime.so"
    fi
    if [[ -z "${SIGHTLINE_BIN:-}" ]]; then
        cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --bin sightline
    fi

    export_network "$binary"
    url="http://127.0.0.1:$(free_port)"
    SIGHTLINE_MODEL="efficientnet_lite0,$SEGMENTATION@320" "$binary" serve --models "$MODELS" \
        --listen "${url#http://}" >"$WORK/server.log" 2>&1 &
    server=$!
    trap stop_server EXIT
    wait_until_ready "$url"

    # Schemathesis writes files into its working directory. Deterministic generation makes failures reproducible.
    (
        cd "$WORK"
        export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
        timeout "${TIME_LIMIT:-900}" "$VENV/bin/schemathesis" \
            --config-file "$ROOT/scripts/schemathesis.toml" run "$url/openapi.yaml" --url "$url" \
            --include-path-regex "$ROUTES" --max-examples "${MAX_EXAMPLES:-100}" \
            --generation-deterministic "$@"
    ) || status=$?
    [[ "$status" != 124 ]] || fail_with_log "Schemathesis did not finish within ${TIME_LIMIT:-900} s"
    [[ "$status" == 0 ]] || fail_with_log "Schemathesis reported failures (exit code $status)"
    is_ready "$url" || fail_with_log "the server was not ready after the run"
    echo "schemathesis.sh: passed"
}

main "$@"
