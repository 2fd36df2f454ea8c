#!/usr/bin/env bash
# Runs the fuzz targets in fuzz/ with libFuzzer under AddressSanitizer, one after the other. Fails at the first input
# for which a target panics, reads or writes out of bounds, or takes too much time or memory; the input is then in
# fuzz/artifacts/TARGET. New inputs that cover more code are kept in fuzz/corpus/TARGET for the next run.
#
#   scripts/fuzz.sh [TARGET...]     default: every target
#
# Environment:
#   FUZZ_SECONDS   seconds per target, without the build (default: 60)
#   FUZZ_SKIP_LOG  file that gets a line if cargo-fuzz cannot be installed; without it, that is an error
#
# AddressSanitizer needs unstable flags of the compiler, which RUSTC_BOOTSTRAP allows on the stable toolchain.
set -euo pipefail

readonly VERSION=0.13.2
readonly SECONDS_EACH="${FUZZ_SECONDS:-60}"
# Limits for one input. The largest seed has 24 kB.
readonly LIMITS=(-max_len=32768 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64)
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

# fuzz TARGET: runs one target, and prints its last coverage and its statistics.
fuzz() {
    local log="fuzz/logs/$1.log"
    mkdir -p "fuzz/corpus/$1" fuzz/logs
    if ! cargo fuzz run "$1" "fuzz/corpus/$1" "$(seeds "$1")" -- \
        -max_total_time="$SECONDS_EACH" -print_final_stats=1 "${LIMITS[@]}" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz.sh: $1 failed: its log is $log, its input is in fuzz/artifacts/$1" >&2
        return 1
    fi
    echo "$1: $(grep -E '^#[0-9]+[[:space:]]+DONE' "$log" | tail -n 1)"
    grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "$log" | sed "s/^/$1: /"
}

if ! install; then
    echo "fuzz.sh: cargo-fuzz cannot be installed" >&2
    [[ -n "${FUZZ_SKIP_LOG:-}" ]] || exit 1
    echo "fuzz targets: cargo-fuzz cannot be installed" >>"$FUZZ_SKIP_LOG"
    exit 0
fi
export RUSTC_BOOTSTRAP=1
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(cargo fuzz list)
fi
for target in "${targets[@]}"; do
    cargo fuzz build "$target"
done
for target in "${targets[@]}"; do
    fuzz "$target"
done
