#!/usr/bin/env bash
# Builds the runtime image and holds it to what its users are promised: it runs read-only, without
# privileges and not as root; it answers a photograph of a cat with a cat; Docker sees it become
# healthy; SIGTERM ends it with exit code 0. Prints the image's compressed size.
# Where no Docker engine answers it says so and passes.
#
# Environment: IMAGE, PREBUILT and BASE_IMAGE, as in docker/image.sh.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
export IMAGE="${IMAGE:-sightline:image-test}"
readonly CONTAINER="sightline-image-test-$$"
readonly PHOTO="$ROOT/tests/photos/chelsea.png"

say() { echo "image-test: $*"; }

fail() {
    echo "image-test: FAILED: $*" >&2
    echo "image-test: the container's log:" >&2
    docker logs --tail 50 "$CONTAINER" >&2 || true
    exit 1
}

start() {
    # The engine picks the port; only this machine can reach it.
    docker run --detach --name "$CONTAINER" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --memory 1g --publish 127.0.0.1::8080 \
        "$IMAGE" >/dev/null
}

inspect() { docker inspect --format "$1" "$CONTAINER"; }

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds, or fails the test.
wait_for() {
    local seconds="$1" what="$2" deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@"; do
        [[ "$(inspect '{{.State.Running}}')" == true ]] || fail "it ended while waiting: $what"
        ((SECONDS < deadline)) || fail "not after $seconds s: $what"
        sleep 0.5
    done
}

is_ready() { curl -fsS --noproxy '*' --max-time 5 -o /dev/null "$1/health/ready" 2>/dev/null; }
is_healthy() { [[ "$(inspect '{{.State.Health.Status}}')" == healthy ]]; }

# address: prints where the server can be reached: the published port, or where the engine cannot
# publish one (some sandboxes), the container's own address.
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
        fail "the image's user is not 65532:65532"
    pid="$(inspect '{{.State.Pid}}')"
    if [[ -r "/proc/$pid/status" ]]; then
        user="$(sed -n 's/^Uid:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$pid/status")"
        [[ "$user" != 0 ]] || fail "its process runs as root"
    fi
    say "runs as 65532, read-only, with no capabilities"
}

check_answer() {
    local answer label
    answer="$(curl -fsS --noproxy '*' --max-time 30 -H 'content-type: image/png' \
        --data-binary "@$PHOTO" "$1/v1/classify")" || fail "/v1/classify did not answer 200"
    [[ "$answer" =~ \"label\":[[:space:]]*\"([^\"]*)\" ]] || fail "no label in: $answer"
    label="${BASH_REMATCH[1]}"
    case "$label" in
        tabby* | "tiger cat"* | "Egyptian cat"*) say "chelsea.png is a \"$label\"" ;;
        *) fail "chelsea.png is no \"$label\"" ;;
    esac
}

check_stop() {
    local code began=$SECONDS
    docker stop -t 20 "$CONTAINER" >/dev/null
    code="$(inspect '{{.State.ExitCode}}')"
    [[ "$code" == 0 ]] || fail "SIGTERM ended it with exit code $code"
    say "SIGTERM ended it with exit code 0 within $((SECONDS - began + 1)) s"
}

main() {
    local url
    if ! docker info >/dev/null 2>&1; then
        say "SKIPPED: no Docker engine answers"
        return
    fi
    "$ROOT/docker/image.sh"
    trap 'docker rm --force "$CONTAINER" >/dev/null 2>&1 || true' EXIT
    start
    url="$(address)"
    wait_for 60 "/health/ready at $url" is_ready "$url"
    check_not_root
    check_answer "$url"
    wait_for 60 "Docker's health check" is_healthy
    say "Docker's health check passes"
    check_stop
    say "compressed size: $(docker save "$IMAGE" | gzip -c | wc -c) bytes"
    say "passed"
}

main
