#!/usr/bin/env bash
# Builds the committed sources twice, in two folders of different names, and compares the binaries byte by byte. Takes
# the time of two release builds. `make reproducible` runs this script.
#
#   scripts/reproducible.sh [REVISION]       default: HEAD
#
# With KEEP=FILE, the binary is copied to FILE.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly REVISION="${1:-HEAD}"
WORK="$(mktemp -d)"
readonly WORK
trap 'rm -rf "$WORK"' EXIT

SOURCE_DATE_EPOCH="$(git -C "$ROOT" log -1 --format=%ct "$REVISION")"
export SOURCE_DATE_EPOCH

# build NAME: builds the sources in the folder NAME, and keeps only the binary.
build() {
    local folder="$WORK/$1" binary
    mkdir -p "$folder"
    git -C "$ROOT" archive "$REVISION" | tar -x -C "$folder"
    binary="$("$ROOT/scripts/portable-build.sh" "$folder")"
    cp "$binary" "$WORK/$1.binary"
    rm -rf "$folder"
}

build first
build "second with another name"
sha256sum "$WORK/first.binary" "$WORK/second with another name.binary"
if ! cmp "$WORK/first.binary" "$WORK/second with another name.binary"; then
    echo "reproducible: the two builds of $REVISION differ" >&2
    exit 1
fi
for path in "$WORK" "$ROOT" "$HOME"; do
    if grep -qaF -- "$path/" "$WORK/first.binary"; then
        echo "reproducible: the binary contains the path $path" >&2
        exit 1
    fi
done
[[ -z "${KEEP:-}" ]] || cp "$WORK/first.binary" "$KEEP"
echo "reproducible: both builds of $REVISION have the same bytes, and none of the paths of this machine"
