#!/usr/bin/env bash
# Builds the release binary without the paths of this machine in it, so that everybody who builds the same sources with
# the same toolchain gets the same bytes. Prints the path of the binary.
#
#   scripts/portable-build.sh [CHECKOUT]     default: this checkout
#
# The build has a target folder of its own, because its flags would rebuild everything in the folder of `make build`.
set -euo pipefail

ROOT="$(cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}" && pwd)"
readonly ROOT
readonly CARGO="${CARGO_HOME:-$HOME/.cargo}"
SYSROOT="$(rustc --print sysroot)"
readonly SYSROOT

remap=("$ROOT=/sightline" "$CARGO=/cargo" "$SYSROOT=/rust")
flags=()
c_flags=
for pair in "${remap[@]}"; do
    flags+=("--remap-path-prefix=$pair")
    # For the C parts of libraries.
    c_flags+=" -ffile-prefix-map=$pair"
done
# Separated by the character 0x1f, because a path may have spaces.
CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct 2>/dev/null || echo 0)}"
export CARGO_ENCODED_RUSTFLAGS SOURCE_DATE_EPOCH CFLAGS="${CFLAGS:-}$c_flags" CARGO_INCREMENTAL=0
unset RUSTFLAGS

cd "$ROOT"
cargo build --release --locked --bin sightline --target-dir "$ROOT/target/portable" >&2
echo "$ROOT/target/portable/release/sightline"
