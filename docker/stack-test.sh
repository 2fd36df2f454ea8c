#!/usr/bin/env bash
# Starts docker/compose.yaml and checks what an operator sees: every query of the dashboard returns data, every alert
# expression evaluates, each alert has a runbook, and an alert fires when the server stops responding. If Docker or
# Compose does not respond, the test is skipped.
#
# Without an image registry, Prometheus is the program of this machine (Debian 12: 2.42), and Grafana and the
# OpenTelemetry collector are not started: Grafana would send the same queries to Prometheus.
#
# Environment: IMAGE, PREBUILT and BASE_IMAGE, as in docker/image.sh; EXISTING=1 uses the image as it is.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
export IMAGE="${IMAGE:-sightline:stack-test}"
export PROMETHEUS_IMAGE=sightline-test-prometheus:local
export COMPOSE_PROJECT_NAME="sightline-stack-test-$$"
WORK="$(mktemp -d)"
readonly WORK

say() { echo "stack-test: $*"; }

fail() {
    echo "stack-test: FAILED: $*" >&2
    compose logs --tail 20 >&2 || true
    exit 1
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -f "$WORK/compose.yaml" "$@"
    else
        docker-compose -f "$WORK/compose.yaml" "$@"
    fi
}

close() {
    local status=$?
    compose down --volumes --timeout 10 >/dev/null 2>&1 || true
    docker image rm "$PROMETHEUS_IMAGE" >/dev/null 2>&1 || true
    rm -rf "$WORK"
    exit "$status"
}

# prepare: copies the configuration. Prometheus before 3 does not know one setting, and alerts fire without a delay.
prepare() {
    cp -r "$ROOT/docker/." "$WORK/"
    sed -i '/always_scrape_classic_histograms/d' "$WORK/prometheus.yml"
    sed -i 's/^\( *\)for: .*/\1for: 1s/' "$WORK/alerts.yml"
    sed -i '/--enable-feature=native-histograms/d; s/127\.0\.0\.1:8080:8080/127.0.0.1::8080/; s/127\.0\.0\.1:9090:9090/127.0.0.1::9090/' \
        "$WORK/compose.yaml"
    chmod -R a+rX "$WORK"
}

# url SERVICE PORT: prints the address of a service's published port.
url() { echo "http://$(compose port "$1" "$2")"; }

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds, or fails the test.
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "timeout while waiting for: $what"
        sleep 1
    done
}

responds() { curl -fsS --noproxy '*' -m 10 -o /dev/null "$@" 2>/dev/null; }

# send: sends valid and faulty requests for half a minute, so that every metric of requests has values.
send() {
    local photo="$ROOT/tests/photos/coffee_500x375.jpg" end=$((SECONDS + 30))
    while ((SECONDS < end)); do
        responds -H 'content-type: image/jpeg' --data-binary "@$photo" "$server/v1/classify" || fail "a valid request failed"
        responds -H 'content-type: image/jpeg' --data-binary "@$photo" "$server/v1/classify?model=efficientnet_lite0@int8" ||
            fail "a valid request of int8 failed"
        responds --data-binary "no image" "$server/v1/classify" && fail "a request without an image succeeded"
        sleep 0.2
    done
}

main() {
    if ! docker info >/dev/null 2>&1; then
        say "SKIPPED: Docker does not respond"
        return
    fi
    if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
        say "SKIPPED: Docker Compose is not installed (Debian: apt-get install docker-compose)"
        return
    fi
    [[ "${EXISTING:-}" == 1 ]] || "$ROOT/docker/image.sh"
    trap close EXIT
    "$ROOT/docker/local-image.sh" "$PROMETHEUS_IMAGE" prometheus
    prepare
    compose config --quiet || fail "docker/compose.yaml is invalid"
    compose up --detach --no-build sightline prometheus >/dev/null 2>&1 || fail "docker compose up"
    server="$(url sightline 8080)"
    local prometheus
    prometheus="$(url prometheus 9090)"
    wait_for 120 "the server at $server" responds "$server/health/ready"
    wait_for 60 "Prometheus at $prometheus" responds "$prometheus/-/ready"
    say "the server and Prometheus run"
    send
    "$ROOT/docker/stack-check.py" queries "$prometheus"
    # A paused container neither responds nor closes its connections.
    docker pause "$(compose ps --quiet sightline)" >/dev/null
    "$ROOT/docker/stack-check.py" fires "$prometheus" SightlineDown
    docker unpause "$(compose ps --quiet sightline)" >/dev/null
    "$ROOT/docker/stack-check.py" resolves "$prometheus" SightlineDown
    say "passed"
}

main
