#!/usr/bin/env bash
# Runs HAProxy and nginx with the configurations of docker/ in front of two servers on this machine, and checks that no
# request fails while one of the servers drains and stops, and that nginx (and HAProxy 3.1) send requests that a full
# server rejects to the other one.
#
# Environment: SIGHTLINE_BIN (default: target/release/sightline), PORT (default: 28400): the first of eight ports.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly SIGHTLINE="${SIGHTLINE_BIN:-$ROOT/target/release/sightline}"
readonly PORT="${PORT:-28400}"
readonly URL="http://127.0.0.1:$PORT"
WORK="$(mktemp -d)"
readonly WORK
pids=()

say() { echo "proxies-test: $*"; }

fail() {
    echo "proxies-test: FAILED: $*" >&2
    tail -n 20 "$WORK"/*.log >&2 || true
    exit 1
}

close() {
    local status=$?
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$WORK"
    exit "$status"
}

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds, or fails the test.
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "timeout while waiting for: $what"
        sleep 0.2
    done
}

responds() { curl -fsS --noproxy '*' -m 5 -o /dev/null "$1" 2>/dev/null; }

# serve NUMBER ARGUMENT...: starts server 1 or 2 on ports PORT + 2 * NUMBER and the next one (admin), and sets `server`.
serve() {
    local port=$((PORT + 2 * $1))
    "$SIGHTLINE" serve --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$((port + 1))" --access-log off \
        --drain-delay 4s "${@:2}" >"$WORK/server-$1.log" 2>&1 &
    server=$!
    pids+=("$server")
    wait_for 60 "server $1" responds "http://127.0.0.1:$((port + 1))/health/ready"
}

# proxy NAME: starts HAProxy or nginx on PORT in front of the two servers.
proxy() {
    local a=$((PORT + 2)) b=$((PORT + 4))
    case "$1" in
        haproxy)
            sed "s/:::8080/:::$PORT/; s/:::8404/:::$((PORT + 7))/; s/check port 8082/check/
                s/^    server-template replica 32 \"\${SIGHTLINE_BACKEND}:8080\"/    server a 127.0.0.1:$a port $((a + 1))\n    server b 127.0.0.1:$b port $((b + 1))/" \
                "$ROOT/docker/haproxy.cfg" >"$WORK/haproxy.cfg"
            haproxy -f "$WORK/haproxy.cfg" >"$WORK/proxy.log" 2>&1 &
            ;;
        nginx)
            sed "s/\[::\]:8080/[::]:$PORT/; s/10\.0\.0\.11:8080/127.0.0.1:$a/; s/10\.0\.0\.12:8080/127.0.0.1:$b/; s#^pid .*#pid $WORK/nginx.pid;#" \
                "$ROOT/docker/nginx.conf" >"$WORK/nginx.conf"
            nginx -c "$WORK/nginx.conf" -g 'daemon off;' >"$WORK/proxy.log" 2>&1 &
            ;;
    esac
    proxy=$!
    pids+=("$proxy")
    wait_for 20 "$1" responds "$URL/health/ready"
}

# load NAME RATE SECONDS CONNECTIONS: sends requests in the background and writes a report to NAME.json.
load() {
    "$SIGHTLINE" bench --url "$URL" --rate "$2" --poisson --seconds "$3" --connections "$4" --json \
        >"$WORK/$1.json" 2>"$WORK/$1.log" &
    client=$!
}

# finish NAME: waits for the end of a load, and prints its statuses. Each request must have one of 200 and the further
# arguments.
finish() {
    local name="$1"
    shift
    wait "$client" || fail "$name: the load client failed"
    python3 - "$name" "$WORK/$name.json" "$@" <<'PYTHON' || fail "$name: requests failed"
import json, sys
name, path, *allowed = sys.argv[1:]
report = json.load(open(path))
print(f"proxies-test: {name}: statuses {report['statuses']}, without a response {report['failures']}")
sys.exit(not set(report["statuses"]) <= {"200", *allowed} or bool(report["failures"]))
PYTHON
}

stop() {
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" || true
}

# metric PORT REASON: prints how many requests the server with this admin port has rejected for REASON.
rejected() {
    curl -fsS --noproxy '*' -m 5 "http://127.0.0.1:$1/metrics" |
        awk -v reason="reason=\"$2\"" '/^sightline_rejected_total/ && index($0, reason) { sum += $NF } END { print sum + 0 }'
}

# check NAME: runs both scenarios with one proxy.
check() {
    local name="$1" first second turned
    serve 1
    first=$server
    serve 2
    second=$server
    proxy "$name"
    load "$name-drain" 10 12 64
    sleep 3
    stop "$first"
    finish "$name-drain"
    # The first server comes back with a queue of one place: it rejects most of what it gets at the same time.
    serve 1 --max-queue-size 1 --instances 1 --max-batch-size 1
    first=$server
    sleep 3
    # One connection for each request that arrives at the same moment.
    load "$name-full" 25 8 64
    if [[ "$name" == nginx ]] || [[ "$(haproxy -v)" != *"version 2."* && "$(haproxy -v)" != *"version 3.0"* ]]; then
        finish "$name-full"
    else
        # This version of HAProxy passes 429 on.
        finish "$name-full" 429
    fi
    turned="$(rejected $((PORT + 3)) queue_full)"
    say "$name: the full server has rejected $turned requests"
    stop "$proxy"
    stop "$first"
    stop "$second"
    pids=()
}

main() {
    local name
    trap close EXIT
    for name in haproxy nginx; do
        if command -v "$name" >/dev/null; then
            check "$name"
        else
            say "SKIPPED: $name is not installed"
        fi
    done
    say "passed"
}

main
