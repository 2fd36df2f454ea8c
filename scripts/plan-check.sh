#!/usr/bin/env bash
# Compares `sightline plan` with measurements: starts a server, measures its costs, and sends five loads with random arrivals.
# The planned p99 of each load must be within 25 % of the measured one. Needs a machine without other load.
#
# Environment:
#   SIGHTLINE_BIN   server (default: target/release/sightline)
#   CLIENT_BIN      load client (default: the same)
#   LOADS           shares of the capacity, in percent (default: 30 45 55 65 75)
#   LOAD_SECONDS    duration of each load (default: 30)
#   PORT            (default: 28500)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly SERVER="${SIGHTLINE_BIN:-$ROOT/target/release/sightline}"
readonly CLIENT="${CLIENT_BIN:-$SERVER}"
readonly LOADS="${LOADS:-30 45 55 65 75}"
readonly LOAD_SECONDS="${LOAD_SECONDS:-30}"
readonly URL="http://127.0.0.1:${PORT:-28500}"
WORK="$(mktemp -d)"
readonly WORK

"$SERVER" serve --listen "${URL#http://}" --access-log off >"$WORK/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" || true; rm -rf "$WORK"' EXIT
for _ in {1..600}; do
    curl -fsS --noproxy '*' -m 2 -o /dev/null "$URL/health/ready" 2>/dev/null && break
    kill -0 "$server" || { cat "$WORK/server.log" >&2; exit 1; }
    sleep 0.1
done

# plan RATE: prints the plan for one replica of this machine's cores, with costs that are measured once.
plan() { "$CLIENT" plan --p99 3600000 --rate "$1" --json "${costs[@]}"; }
# field FILE EXPRESSION: prints a value of a JSON file, which the expression calls `r`.
field() { python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }

costs=(--url "$URL" --seconds 6 --cores "$(nproc)")
plan 0.001 >"$WORK/costs.json"
capacity="$(field "$WORK/costs.json" 'r["capacity_per_replica"]')"
mean="$(field "$WORK/costs.json" 'round(r["service_ms"]["mean"], 2)')"
echo "plan-check: $(nproc) cores, $mean ms per request, at most $(field "$WORK/costs.json" 'round(r["capacity_per_replica"], 1)') requests/s"
# The distribution of the costs, as 100 quantiles, so that all loads are planned with the same measurement.
mapfile -t values < <(field "$WORK/costs.json" '"\n".join(f"{q:.4f}" for q in r["service_ms"]["quantiles"])')
costs=(--cores "$(nproc)")
for value in "${values[@]}"; do costs+=(--cost-ms "$value"); done

failed=0
for share in $LOADS; do
    rate="$(awk -v c="$capacity" -v s="$share" 'BEGIN { printf "%.2f", c * s / 100 }')"
    plan "$rate" >"$WORK/plan.json"
    "$CLIENT" bench --url "$URL" --rate "$rate" --poisson --seconds "$LOAD_SECONDS" --json >"$WORK/load.json"
    python3 - "$share" "$rate" "$WORK/plan.json" "$WORK/load.json" <<'PYTHON' || failed=1
import json, sys
share, rate, plan, load = sys.argv[1], sys.argv[2], *(json.load(open(path)) for path in sys.argv[3:])
planned, measured = plan["outcomes"][0], load["latency_ms"]
ratio = planned["p99_ms"] / measured["p99"]
print(f"plan-check: {share} % ({rate}/s): p50 planned {planned['p50_ms']:.1f} ms, measured {measured['p50']:.1f} ms; "
      f"p99 planned {planned['p99_ms']:.1f} ms, measured {measured['p99']:.1f} ms ({ratio - 1:+.0%}); {load['sent']} requests")
sys.exit(not 0.75 <= ratio <= 1.25 or set(load["statuses"]) != {"200"})
PYTHON
done
((failed == 0)) || { echo "plan-check: FAILED: a planned p99 differs by more than 25 %" >&2; exit 1; }
echo "plan-check: passed"
