#!/usr/bin/env bash
# Builds the runtime image and tests it: it runs read-only, without capabilities and not as root, in an
# empty folder; it finds its model in the start-up cache of the image; it classifies a photograph of a cat as a cat; Docker's health check passes; SIGTERM ends it with exit
# code 0. Prints the compressed size of the image. If Docker does not respond, the test is skipped.
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
    echo "image-test: log of the container:" >&2
    docker logs --tail 50 "$CONTAINER" >&2 || true
    exit 1
}

start() {
    # Docker picks a free port on the loopback address.
    docker run --detach --name "$CONTAINER" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --memory 1g --publish 127.0.0.1::8080 \
        --env SIGHTLINE_LOG=info,sightline::cache=debug \
        "$IMAGE" >/dev/null
}

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

main() {
    local url
    if ! docker info >/dev/null 2>&1; then
        say "SKIPPED: Docker does not respond"
        return
    fi
    "$ROOT/docker/image.sh"
    trap 'docker rm --force "$CONTAINER" >/dev/null 2>&1 || true' EXIT
    start
    url="$(address)"
    wait_for 60 "/health/ready at $url" is_ready "$url"
    check_not_root
    check_folder
    check_cache
    check_answer "$url"
    wait_for 60 "Docker's health check" is_healthy
    say "Docker's health check passes"
    check_stop
    say "compressed size: $(docker save "$IMAGE" | gzip -c | wc -c) bytes"
    say "passed"
}

main
