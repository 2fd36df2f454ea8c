#!/usr/bin/env bash
# Runs the fuzz targets in fuzz/ with libFuzzer under AddressSanitizer. New inputs that cover more code are kept in
# fuzz/corpus/TARGET, and the next run begins with them, so that runs of several days add up. An input for which a
# target panics, reads or writes out of bounds, or takes too much time or memory is kept in fuzz/artifacts/TARGET; the
# other targets still run, and the exit status is 1.
#
#   scripts/fuzz.sh [TARGET...]     default: every target
#   scripts/fuzz.sh --totals        prints what all runs so far add up to, for each target
#
# Environment:
#   FUZZ_SECONDS   wall time of one run of a target in seconds, without the build (default: 60)
#   FUZZ_UNTIL     repeats the runs of all targets until this time, for example 'tomorrow 8:00' (default: one run each)
#   FUZZ_JOBS      targets that run at the same time (default: 1)
#   FUZZ_BUILD     0 runs the targets as they were built last (default: 1)
#   FUZZ_BUILD_ARGS  more arguments for 'cargo fuzz build', such as '--codegen-units 16' for a quick build of slow targets
#   FUZZ_SUMMARY   file that gets a line for each run (default: fuzz/logs/summary.tsv)
#   FUZZ_ARGS      more arguments for libFuzzer
#   FUZZ_SKIP_LOG  file that gets a line if cargo-fuzz cannot be installed; without it, that is an error
#
# AddressSanitizer needs unstable flags of the compiler, which RUSTC_BOOTSTRAP allows on the stable toolchain.
set -euo pipefail

readonly VERSION=0.13.2
readonly SECONDS_EACH="${FUZZ_SECONDS:-60}"
readonly JOBS="${FUZZ_JOBS:-1}"
readonly SUMMARY="${FUZZ_SUMMARY:-fuzz/logs/summary.tsv}"
# Limits for one input. The largest seed has 24 kB.
readonly LIMITS=(-max_len=32768 -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=64)
readonly COLUMNS_OF_SUMMARY=(end target cpu_seconds executions coverage features inputs peak_mib status)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install() {
    if cargo fuzz --version >/dev/null 2>&1; then
        return
    fi
    echo "fuzz.sh: installing cargo-fuzz $VERSION"
    cargo install --quiet --locked "cargo-fuzz@$VERSION"
}

# seeds TARGET: prints the folder with the seeds of a target.
seeds() {
    case "$1" in
        jpeg | png | webp | gif | bmp) echo tests/golden/images ;;
        checkpoint) echo tests/golden/checkpoints ;;
        *) echo "fuzz/seeds/$1" ;;
    esac
}

# binary TARGET: prints the path of the program of a target.
binary() {
    echo "fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release/$1"
}

# last PATTERN LOG: prints the number after the last match of a pattern, or 0.
last() {
    local found
    found="$(grep -oE "$1 *[0-9]+" "$2" | tail -n 1 | grep -oE '[0-9]+$')" || found=0
    echo "$found"
}

# fuzz TARGET SECONDS: runs one target, and adds a line to the summary. Fails if an input breaks an invariant or a limit.
fuzz() {
    local target="$1" log="fuzz/logs/$1.log" status=ok cpu more=() line
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    [[ -z "${FUZZ_ARGS:-}" ]] || read -ra more <<<"$FUZZ_ARGS"
    # The sum of user and system time of the program.
    local TIMEFORMAT='%U %S'
    cpu="$({ time "$(binary "$target")" "fuzz/corpus/$target" "$(seeds "$target")" \
        "-artifact_prefix=fuzz/artifacts/$target/" -max_total_time="$2" -print_final_stats=1 \
        "${LIMITS[@]}" "${more[@]}" >"$log" 2>&1 || echo failed; } 2>&1)"
    if [[ "$cpu" == *failed ]]; then
        status=failed
    fi
    cpu="$(awk 'NF == 2 { printf "%.0f", $1 + $2 }' <<<"$cpu")"
    line="$(printf '%s\t' "$(date -u +%FT%TZ)" "$target" "$cpu" "$(last stat::number_of_executed_units: "$log")" \
        "$(last cov: "$log")" "$(last ft: "$log")" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
        "$(last stat::peak_rss_mb: "$log")")$status"
    echo "$line" >>"$SUMMARY"
    echo "fuzz.sh: $line"
    if [[ "$status" == failed ]]; then
        tail -n 60 "$log"
        cp "$log" "fuzz/logs/$target.failed-$(date +%s).log"
        echo "fuzz.sh: $target failed: its log is $log, its input is in fuzz/artifacts/$target" >&2
        return 1
    fi
}

# totals: prints CPU time and executions of all runs, and the coverage of the last run, for each target.
totals() {
    awk -F '\t' -v OFS='\t' '
        $2 == "target" { next }
        {
            cpu[$2] += $3; executions[$2] += $4
            if ($5 > 0) { last[$2] = $5 OFS $6 OFS $7 }
            if ($9 != "ok") { failures[$2]++ }
        }
        END {
            print "target", "cpu_seconds", "executions", "coverage", "features", "inputs", "failures"
            for (target in cpu) {
                print target, cpu[target], executions[target], last[target], failures[target] + 0 | "sort"
            }
        }' "$SUMMARY"
}

# build TARGET...: builds targets, all without an argument.
build() {
    local arguments=() target
    read -ra arguments <<<"${FUZZ_BUILD_ARGS:-}"

    if ! install; then
        echo "fuzz.sh: cargo-fuzz cannot be installed" >&2
        [[ -n "${FUZZ_SKIP_LOG:-}" ]] || exit 1
        echo "fuzz targets: cargo-fuzz cannot be installed" >>"$FUZZ_SKIP_LOG"
        exit 0
    fi
    if (($# == 0)); then
        RUSTC_BOOTSTRAP=1 cargo fuzz build "${arguments[@]}"
    fi
    for target in "$@"; do
        RUSTC_BOOTSTRAP=1 cargo fuzz build "${arguments[@]}" "$target"
    done
}

# run_all UNTIL TARGET...: runs all targets once, at most FUZZ_JOBS at the same time, until UNTIL, in seconds since
# 1970; 0 means no end.
run_all() {
    local until="$1" running=0 failed=0 seconds="$SECONDS_EACH" target
    shift
    for target in "$@"; do
        if ((running == JOBS)); then
            wait -n || failed=1
            running=$((running - 1))
        fi
        if ((until != 0)); then
            seconds=$((until - $(date +%s)))
            if ((seconds <= 0)); then
                break
            fi
            seconds=$((seconds < SECONDS_EACH ? seconds : SECONDS_EACH))
        fi
        fuzz "$target" "$seconds" &
        running=$((running + 1))
    done
    while ((running > 0)); do
        wait -n || failed=1
        running=$((running - 1))
    done
    return "$failed"
}

if [[ "${1:-}" == --totals ]]; then
    totals
    exit
fi
[[ "${FUZZ_BUILD:-1}" == 0 ]] || build "$@"
mkdir -p "$(dirname "$SUMMARY")" fuzz/logs
[[ -s "$SUMMARY" ]] || (IFS=$'\t' && echo "${COLUMNS_OF_SUMMARY[*]}") >"$SUMMARY"
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(find fuzz/fuzz_targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort)
fi
# What cargo-fuzz sets, too.
export ASAN_OPTIONS="detect_odr_violation=0:${ASAN_OPTIONS:-}"
until=0
[[ -z "${FUZZ_UNTIL:-}" ]] || until="$(date -d "$FUZZ_UNTIL" +%s)"
failures=0
while true; do
    run_all "$until" "${targets[@]}" || failures=1
    if ((until == 0 || $(date +%s) >= until)); then
        break
    fi
done
exit "$failures"
