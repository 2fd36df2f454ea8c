#!/usr/bin/env bash
# Runs docker/swarm.yaml with three replicas on this machine, and checks that no request is lost under load: during a
# rolling update, when a replica is killed, and when the network of a replica is cut. The requests must be spread evenly,
# and with docker/swarm.secure.yaml every request needs TLS and a key. If Docker does not respond, the test is skipped.
#
#   docker/swarm-test.sh [spread|update|kill|cut|secure ...]      all by default
#
# The proxy's port is published on the host: the routing mesh needs IPVS in the kernel. Everything that the test creates
# is removed at the end; the engine must not be in swarm mode before.
#
# Environment:
#   IMAGE, PREBUILT, BASE_IMAGE  as in docker/image.sh; EXISTING=1 uses the image as it is
#   SIGHTLINE_BIN                load client (default: target/release/sightline)
#   RATE                         requests per second (default: 10)
#   PORT                         port of the proxy (default: 28080); the next one is used for TLS
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly STACK="sightline-test-$$"
export PROXY_IMAGE=sightline-test-proxy:local
readonly CLIENT="${SIGHTLINE_BIN:-$ROOT/target/release/sightline}"
readonly RATE="${RATE:-10}"
export PORT="${PORT:-28080}"
export IMAGE="${IMAGE:-sightline:swarm-test}"
readonly NEXT="$IMAGE-next"
WORK="$(mktemp -d)"
readonly WORK
joined=

say() { echo "swarm-test: $*"; }

fail() {
    echo "swarm-test: FAILED: $*" >&2
    docker service ps "${STACK}_server" "${STACK}_proxy" --no-trunc 2>&1 | cut -c -200 >&2 || true
    docker service logs --tail 30 "${STACK}_proxy" >&2 2>&1 || true
    exit 1
}

close() {
    local status=$? waited=0
    if [[ -n "$joined" ]]; then
        docker stack rm "$STACK" >/dev/null 2>&1 || true
        while [[ -n "$(docker ps -q --filter "label=com.docker.stack.namespace=$STACK")" ]] && ((waited < 90)); do
            sleep 1
            waited=$((waited + 1))
        done
        docker swarm leave --force >/dev/null 2>&1 || true
    fi
    docker image rm "$NEXT" "$PROXY_IMAGE" >/dev/null 2>&1 || true
    rm -rf "$WORK"
    exit "$status"
}

# deploy FILE...: deploys the stack from the given files.
deploy() {
    local file files=()
    for file in "$@"; do files+=(-c "$ROOT/docker/$file"); done
    PUBLISH_MODE=host PROXY_ORDER=stop-first TLS_PORT="$((PORT + 1))" CPUS=1 \
        docker stack deploy --resolve-image never --detach=true "${files[@]}" "$STACK" >"$WORK/deploy.log" 2>&1 ||
        fail "docker stack deploy: $(cat "$WORK/deploy.log")"
}

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds, or fails the test.
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "timeout while waiting for: $what"
        sleep 1
    done
}

containers() { docker ps --quiet --no-trunc --filter "label=com.docker.swarm.service.name=${STACK}_server"; }

# converged IMAGE: three healthy replicas of IMAGE run, and no other, and no update is in progress.
converged() {
    [[ "$(docker ps --filter "label=com.docker.swarm.service.name=${STACK}_server" --format '{{.Image}} {{.Status}}' |
        grep -c "^$1 .*(healthy)")" == 3 && "$(containers | wc -l)" == 3 &&
        "$(docker service inspect "${STACK}_server" --format '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}')" != updating ]]
}

serves() { curl -fsS --noproxy '*' -m 10 -o /dev/null "http://127.0.0.1:$PORT/health/ready" 2>/dev/null; }

# in_network CONTAINER COMMAND...: runs a command of this machine in the network of a container.
in_network() {
    local pid
    pid="$(docker inspect --format '{{.State.Pid}}' "$1")"
    shift
    nsenter --target "$pid" --net "$@"
}

# known N: the proxy uses N replicas.
known() {
    local proxy up
    proxy="$(docker ps --quiet --filter "label=com.docker.swarm.service.name=${STACK}_proxy" | head -n 1)"
    up="$(in_network "$proxy" curl -fsS -m 5 http://127.0.0.1:8404/metrics 2>/dev/null |
        awk '/^haproxy_server_status.*proxy="sightline".*state="UP"/ && $NF == 1 { up++ } END { print up + 0 }')"
    [[ "$up" == "$1" ]]
}

# load NAME SECONDS: sends requests in the background and writes a report to NAME.json.
load() {
    "$CLIENT" bench --url "http://127.0.0.1:$PORT" --rate "$RATE" --poisson --seconds "$2" --json \
        >"$WORK/$1.json" 2>"$WORK/$1.err" &
    client=$!
}

# finish NAME: waits for the end of a load. Every request must have the status 200.
finish() {
    wait "$client" || fail "$1: the load client failed: $(cat "$WORK/$1.err")"
    python3 - "$1" "$WORK/$1.json" <<'PYTHON' || fail "$1: requests were lost"
import json, sys
name, path = sys.argv[1:]
report = json.load(open(path))
latency = report["latency_ms"]
print(f"swarm-test: {name}: {report['sent']} requests, statuses {report['statuses']}, without a response "
      f"{report['failures']}, not sent {report['unsent']}; p50 {latency['p50']:.0f} ms, max {latency['max']:.0f} ms")
sys.exit(set(report["statuses"]) != {"200"} or bool(report["failures"]) or report["unsent"] > 0)
PYTHON
}

served() { in_network "$1" curl -fsS -m 10 http://127.0.0.1:8082/metrics |
    awk '/^sightline_requests_total.*classify.*200/ { sum += $NF } END { print sum + 0 }'; }

# check_spread: each replica serves the same share of a load, within 10 %.
check_spread() {
    local container before=() after=() index=0
    for container in $(containers); do before+=("$(served "$container")"); done
    load spread 20
    finish spread
    for container in $(containers); do
        after+=("$(($(served "$container") - before[index]))")
        index=$((index + 1))
    done
    say "requests of each replica: ${after[*]}"
    printf '%s\n' "${after[@]}" | awk '{ sum += $1; if (NR == 1 || $1 < min) min = $1; if ($1 > max) max = $1 }
        END { mean = sum / NR; exit !(max <= mean * 1.1 && min >= mean * 0.9) }' || fail "the replicas differ by more than 10 %"
}

check_update() {
    load update 60
    sleep 3
    docker service update --quiet --detach=true --no-resolve-image --image "$NEXT" \
        --update-delay 1s --update-monitor 3s "${STACK}_server" >/dev/null
    finish update
    wait_for 120 "the end of the update" converged "$NEXT"
    current="$NEXT"
    say "rolling update: all replicas run the new image"
}

check_kill() {
    load kill 15
    sleep 4
    docker kill --signal KILL "$(containers | head -n 1)" >/dev/null
    finish kill
    wait_for 120 "a new replica" converged "$current"
    wait_for 60 "the proxy to know it" known 3
}

# check_cut: cuts one replica off the network of the services while it works on requests.
check_cut() {
    local container interface
    container="$(containers | head -n 1)"
    interface="$(in_network "$container" ip -o -4 address show | awk '/inet 10\./ { print $2; exit }')"
    load cut 20
    sleep 4
    in_network "$container" ip link set "$interface" down
    finish cut
    docker kill --signal KILL "$container" >/dev/null
    wait_for 120 "a new replica" converged "$current"
    wait_for 60 "the proxy to know it" known 3
}

check_secure() {
    local key url="https://localhost:$((PORT + 1))/v1/classify" status
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$WORK/tls.key" -out "$WORK/tls.crt" 2>/dev/null
    "$CLIENT" key new test --json >"$WORK/key.json"
    key="$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["key"])' "$WORK/key.json")"
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["line"])' "$WORK/key.json" |
        docker secret create sightline_keys_1 - >/dev/null
    cat "$WORK/tls.crt" "$WORK/tls.key" | docker secret create sightline_certificate_1 - >/dev/null
    IMAGE="$current" deploy swarm.yaml swarm.secure.yaml
    ask() {
        status="$(curl -s --noproxy '*' -m 20 --cacert "$WORK/tls.crt" -o /dev/null -w '%{http_code}' "$@" \
            -H 'content-type: image/jpeg' --data-binary "@$ROOT/tests/photos/coffee_500x375.jpg" "$url")" || true
    }
    asks() {
        ask
        [[ "$status" == "$1" ]]
    }
    wait_for 180 "keys to be required" asks 401
    wait_for 180 "the end of the update" converged "$current"
    ask -H "Authorization: Bearer $key"
    [[ "$status" == 200 ]] || fail "a request with TLS and a key: expected 200, got $status"
    asks 401 || fail "a request without a key: expected 401, got $status"
    say "TLS and API keys from secrets"
}

main() {
    if ! docker info >/dev/null 2>&1; then
        say "SKIPPED: Docker does not respond"
        return
    fi
    [[ "$(docker info --format '{{.Swarm.LocalNodeState}}')" == inactive ]] || fail "the engine is in swarm mode already"
    trap close EXIT
    [[ "${EXISTING:-}" == 1 ]] || "$ROOT/docker/image.sh"
    "$ROOT/docker/local-image.sh" "$PROXY_IMAGE" haproxy
    docker tag "$IMAGE" "$NEXT"
    docker swarm init --advertise-addr 127.0.0.1 >/dev/null
    joined=1
    deploy swarm.yaml
    wait_for 180 "three healthy replicas" converged "$IMAGE"
    wait_for 60 "the proxy" serves
    wait_for 60 "the proxy to know all replicas" known 3
    current="$IMAGE"
    say "three replicas behind HAProxy; port $PORT is published on the host"
    (($# > 0)) || set -- spread update kill cut secure
    for scenario in "$@"; do
        "check_$scenario"
    done
    say "passed"
}

main "$@"
