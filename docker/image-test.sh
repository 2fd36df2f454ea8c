#!/usr/bin/env bash
# Builds the runtime image and tests it. If Docker does not respond, the test is skipped.
#
# - It runs read-only, without capabilities and not as root, in an empty folder; also as an arbitrary user.
# - It is ready within READY_MS, because the built-in model is in the start-up cache of the image.
# - It classifies a photograph of a cat as a cat, over IPv4 and IPv6, and without IPv6 in the kernel.
# - Docker's health check passes; metrics and the control of models are on the admin port only.
# - SIGTERM under load loses no request and ends it with exit code 0.
# - It has labels and a bill of materials, and is not larger than MAX_BYTES.
#
# Environment: IMAGE, PREBUILT and BASE_IMAGE, as in docker/image.sh; EXISTING=1 uses the image as it is. READY_MS (300) is
# for a machine without other load.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
export IMAGE="${IMAGE:-sightline:image-test}"
readonly CONTAINER="sightline-image-test-$$"
readonly PHOTO="$ROOT/tests/photos/chelsea.png"
readonly SMALL_PHOTO="$ROOT/tests/photos/coffee_500x375.jpg"
readonly READY_MS="${READY_MS:-300}"
# Compressed size.
readonly MAX_BYTES=60000000
WORK="$(mktemp -d)"
readonly WORK

say() { echo "image-test: $*"; }

fail() {
    echo "image-test: FAILED: $*" >&2
    echo "image-test: log of the container:" >&2
    docker logs --tail 50 "$CONTAINER" >&2 || true
    exit 1
}

# start ARGUMENT...: starts the container with further arguments of `docker run`, in a network with IPv6 on loopback.
start() {
    # Docker picks a free port on the loopback address.
    docker run --detach --name "$CONTAINER" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --memory 1g --publish 127.0.0.1::8080 \
        --sysctl net.ipv6.conf.all.disable_ipv6=0 --sysctl net.ipv6.conf.lo.disable_ipv6=0 \
        --env SIGHTLINE_LOG=info,sightline::cache=debug "$@" "$IMAGE" >/dev/null
}

remove() { docker rm --force "$CONTAINER" >/dev/null 2>&1 || true; }

# inside COMMAND...: runs a command of this machine in the container's network.
inside() { nsenter --target "$(inspect '{{.State.Pid}}')" --net "$@"; }

# status URL ARGUMENT...: prints the status of a request in the container's network.
status() { inside curl -s --noproxy '*' -g --max-time 30 -o /dev/null -w '%{http_code}' "$@" || true; }

inspect() { docker inspect --format "$1" "$CONTAINER"; }

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds, or fails the test.
wait_for() {
    local seconds="$1" what="$2" deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@"; do
        [[ "$(inspect '{{.State.Running}}')" == true ]] || fail "the container exited while waiting for: $what"
        ((SECONDS < deadline)) || fail "timeout of $seconds s while waiting for: $what"
        sleep 0.5
    done
}

is_ready() { curl -fsS --noproxy '*' --max-time 5 -o /dev/null "$1/health/ready" 2>/dev/null; }
is_healthy() { [[ "$(inspect '{{.State.Health.Status}}')" == healthy ]]; }

# address: prints the server's URL: the published port, or the container's own address if Docker cannot
# publish ports (in some sandboxes).
address() {
    local published
    published="$(docker port "$CONTAINER" 8080/tcp 2>/dev/null | sed -n 1p)"
    if [[ -n "$published" ]]; then
        echo "http://$published"
    else
        echo "http://$(inspect '{{.NetworkSettings.IPAddress}}'):8080"
    fi
}

check_not_root() {
    local pid user
    [[ "$(docker image inspect --format '{{.Config.User}}' "$IMAGE")" == 65532:65532 ]] ||
        fail "the user of the image is not 65532:65532"
    pid="$(inspect '{{.State.Pid}}')"
    if [[ -r "/proc/$pid/status" ]]; then
        user="$(sed -n 's/^Uid:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$pid/status")"
        [[ "$user" != 0 ]] || fail "the server runs as root"
    fi
    say "runs as user 65532, read-only, without capabilities"
}

# check_folder: the working directory is empty and belongs to root, without write permission for others.
check_folder() {
    local folder entries
    folder="$(docker image inspect --format '{{.Config.WorkingDir}}' "$IMAGE")"
    [[ "$folder" == /var/empty ]] || fail "working directory: expected /var/empty, got $folder"
    entries="$(docker cp "$CONTAINER:$folder" - | tar --numeric-owner -tv | awk '{ print $1, $2, $NF }')"
    [[ "$entries" == "drwxr-xr-x 0/0 empty/" ]] ||
        fail "the working directory must be empty and writable by root only, got: $entries"
    say "the working directory is empty and read-only"
}

# check_cache: the server has used the optimized network of the image.
check_cache() {
    [[ "$(docker logs "$CONTAINER" 2>&1)" == *"found in the start-up cache"* ]] ||
        fail "the server did not find the built-in model in the start-up cache of the image"
    say "the built-in model comes from the start-up cache"
}

# check_ready: the time from the start of the process to the event `ready`, as the log states it.
check_ready() {
    local ms
    ms="$(docker logs "$CONTAINER" 2>&1 | sed -n 's/.* ready .*seconds=\([0-9.]*\).*/\1/p' | head -n 1 |
        awk '{ printf "%d", $1 * 1000 }')"
    [[ -n "$ms" ]] || fail "the log has no event \"ready\""
    ((ms < READY_MS)) || fail "ready after $ms ms: expected less than $READY_MS ms"
    say "ready after $ms ms"
}

# check_addresses: both families reach the server; metrics and the control of models are on the admin port.
check_addresses() {
    local url
    for url in "http://127.0.0.1:8080/health/ready" "http://[::1]:8080/health/ready" "http://[::1]:8082/metrics"; do
        [[ "$(status "$url")" == 200 ]] || fail "$url: expected 200, got $(status "$url")"
    done
    [[ "$(inside curl -s --noproxy '*' http://127.0.0.1:8082/metrics)" == *sightline_build_info* ]] ||
        fail "the admin port has no metrics"
    [[ "$(status -X POST "http://127.0.0.1:8080/v1/models/efficientnet_lite0/load")" == 404 ]] ||
        fail "the public port can load models"
    say "IPv4, IPv6, and metrics on port 8082"
}

check_labels() {
    local name value
    for name in title description licenses version revision created base.name; do
        value="$(docker image inspect --format "{{index .Config.Labels \"org.opencontainers.image.$name\"}}" "$IMAGE")"
        [[ -n "$value" ]] || fail "the image has no label org.opencontainers.image.$name"
    done
    docker cp "$CONTAINER:/usr/share/sightline/sbom.cdx.json" "$WORK/sbom.json" >/dev/null || fail "the image has no bill of materials"
    python3 - "$WORK/sbom.json" <<'PYTHON' || fail "the bill of materials is incomplete"
import json, sys
bom = json.load(open(sys.argv[1]))
names = {component["name"] for component in bom["components"]}
print(f"image-test: labels, and a bill of materials with {len(names)} components")
sys.exit(bom["bomFormat"] != "CycloneDX" or not {"axum", "onnxruntime", "ort"} <= names)
PYTHON
}

# check_variants: an arbitrary user, as on OpenShift, and a kernel without IPv6.
check_variants() {
    local url
    remove
    start --user 1000670000:0 --env "SIGHTLINE_DRAIN_DELAY=1s"
    url="$(address)"
    wait_for 60 "the server of an arbitrary user" is_ready "$url"
    check_cache
    check_answer "$url"
    say "runs as user 1000670000 with group 0"
    check_drain
    remove
    printf '%s' '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO",
        "errnoRet": 97, "args": [{"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}]}]}' >"$WORK/no-ipv6.json"
    start --security-opt "seccomp=$WORK/no-ipv6.json"
    wait_for 60 "the server without IPv6" is_ready "$(address)"
    wait_for 60 "the health check without IPv6" is_healthy
    say "runs without IPv6 in the kernel"
}

# client FILE: sends requests until the server does not accept connections any more, and writes their statuses.
client() {
    local result url
    url="http://$(inspect '{{.NetworkSettings.IPAddress}}'):8080/v1/classify"
    while true; do
        result="$(curl -s --noproxy '*' --connect-timeout 2 --max-time 30 -o /dev/null \
            -w '%{http_code}:%{exitcode} %{time_connect}' -H 'content-type: image/jpeg' --data-binary "@$SMALL_PHOTO" "$url")" || true
        # Without a connection, no request was accepted.
        [[ "$result" != 000:*" 0.000000" ]] || return 0
        echo "${result% *}" >>"$1"
    done
}

# check_drain: SIGTERM while clients send requests. Each request gets its result, or after the drain delay a 503.
check_drain() {
    local pids=() index count
    for index in 1 2 3 4; do
        client "$WORK/client.$index" &
        pids+=($!)
    done
    sleep 2
    check_stop
    wait "${pids[@]}"
    count="$(cat "$WORK"/client.* | grep -c '^200:')" || true
    if grep -hvE '^(200|503):0$' "$WORK"/client.* >"$WORK/lost"; then
        fail "SIGTERM under load: requests without a result: $(sort "$WORK/lost" | uniq -c | tr '\n' ' ')"
    fi
    ((count > 0)) || fail "SIGTERM under load: no request succeeded"
    say "SIGTERM under load: $count requests with a result, none lost"
}

check_answer() {
    local answer label
    answer="$(curl -fsS --noproxy '*' --max-time 30 -H 'content-type: image/png' \
        --data-binary "@$PHOTO" "$1/v1/classify")" || fail "POST /v1/classify did not return 200"
    [[ "$answer" =~ \"label\":[[:space:]]*\"([^\"]*)\" ]] || fail "no label in the response: $answer"
    label="${BASH_REMATCH[1]}"
    case "$label" in
        tabby* | "tiger cat"* | "Egyptian cat"*) say "chelsea.png is classified as \"$label\"" ;;
        *) fail "chelsea.png: expected a cat, got \"$label\"" ;;
    esac
}

check_stop() {
    local code began=$SECONDS
    docker stop -t 20 "$CONTAINER" >/dev/null
    code="$(inspect '{{.State.ExitCode}}')"
    [[ "$code" == 0 ]] || fail "exit code after SIGTERM: expected 0, got $code"
    say "exit code 0 within $((SECONDS - began + 1)) s after SIGTERM"
}

check_size() {
    local bytes
    bytes="$(docker save "$IMAGE" | gzip -c | wc -c)"
    ((bytes <= MAX_BYTES)) || fail "compressed size: expected at most $MAX_BYTES bytes, got $bytes"
    say "compressed size: $bytes bytes"
}

close() {
    remove
    rm -rf "$WORK"
}

main() {
    local url
    if ! docker info >/dev/null 2>&1; then
        say "SKIPPED: Docker does not respond"
        return
    fi
    [[ "${EXISTING:-}" == 1 ]] || "$ROOT/docker/image.sh"
    trap close EXIT
    start
    url="$(address)"
    wait_for 60 "/health/ready at $url" is_ready "$url"
    check_not_root
    check_folder
    check_cache
    check_ready
    check_addresses
    check_answer "$url"
    check_labels
    wait_for 60 "Docker's health check" is_healthy
    say "Docker's health check passes"
    check_stop
    check_variants
    check_size
    say "passed"
}

main
