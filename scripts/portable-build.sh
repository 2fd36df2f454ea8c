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
flags=
c_flags=
for pair in "${remap[@]}"; do
    flags+=" $(printf '%q' "--remap-path-prefix=$pair")"
    # For the C parts of libraries.
    c_flags+=" $(printf '%q' "-ffile-prefix-map=$pair")"
done

# Cargo hashes RUSTFLAGS into the names of files, on which the order of functions in the binary depends. A wrapper adds
# the flags unseen.
WRAPPER="$(mktemp)"
readonly WRAPPER
trap 'rm -f "$WRAPPER"' EXIT
printf '#!/usr/bin/env bash\nexec "$@"%s\n' "$flags" >"$WRAPPER"
chmod 755 "$WRAPPER"

SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct 2>/dev/null || echo 0)}"
# With CC_SHELL_ESCAPED_FLAGS, a path in CFLAGS may have spaces.
export RUSTC_WRAPPER="$WRAPPER" SOURCE_DATE_EPOCH CFLAGS="${CFLAGS:-}$c_flags" CC_SHELL_ESCAPED_FLAGS=1 CARGO_INCREMENTAL=0
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

cd "$ROOT"
cargo build --release --locked --bin sightline --target-dir "$ROOT/target/portable" >&2
echo "$ROOT/target/portable/release/sightline"
