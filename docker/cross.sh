#!/usr/bin/env bash
# Compiles the server for another architecture, and prepares the files of its image in target/image-ARCH. Prints the
# command that builds the image.
#
#   docker/cross.sh arm64|amd64
#
# Needs rustup's standard library for the target (`rustup target add`), and a C compiler and linker for it (Debian:
# gcc-aarch64-linux-gnu or gcc-x86-64-linux-gnu).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT

fail() {
    echo "docker/cross.sh: $*" >&2
    exit 1
}

case "${1:-}" in
    arm64) readonly ARCH=arm64 MACHINE=aarch64 GNU=aarch64-linux-gnu ;;
    amd64) readonly ARCH=amd64 MACHINE=x86_64 GNU=x86_64-linux-gnu ;;
    *) fail "usage: docker/cross.sh arm64|amd64" ;;
esac
export TARGET="$MACHINE-unknown-linux-gnu"

[[ -d "$(rustc --print target-libdir --target "$TARGET")" ]] ||
    fail "the standard library for $TARGET is not installed: run rustup target add $TARGET"
command -v "$GNU-gcc" >/dev/null || fail "$GNU-gcc is not installed (Debian: apt-get install gcc-${GNU//_/-})"
export "CC_${TARGET//-/_}=$GNU-gcc"
linker="CARGO_TARGET_${TARGET//-/_}_LINKER"
export "${linker^^}=$GNU-gcc"

ONNXRUNTIME_MACHINE="$MACHINE" ONNXRUNTIME_DIR="$ROOT/.cache/onnxruntime-$MACHINE" "$ROOT/scripts/fetch-onnxruntime.sh"
cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --bin sightline --target "$TARGET"
# The optimized networks depend on the CPU, and this machine cannot run the binary.
BINARY="$ROOT/target/$TARGET/release/sightline" LIBRARY="$ROOT/.cache/onnxruntime-$MACHINE" CACHE=off \
    "$ROOT/docker/stage.sh" "$ROOT/target/image-$ARCH"
echo "docker/cross.sh: to build the image, run
  docker buildx build --platform linux/$ARCH -f docker/Dockerfile --target runtime-prebuilt -t sightline:$ARCH target/image-$ARCH"
