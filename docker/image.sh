#!/usr/bin/env bash
# Builds the runtime image around a binary compiled here and the fetched ONNX Runtime.
#
# Environment:
#   IMAGE       the image's name (sightline:latest)
#   PREBUILT    set to 1 to take target/release/sightline as it is, without compiling
#   BASE_IMAGE  what to build on; otherwise distroless where it can be pulled, else docker/base.sh
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly IMAGE="${IMAGE:-sightline:latest}"
readonly DISTROLESS=gcr.io/distroless/cc-debian12
readonly CONTEXT="$ROOT/target/image"

fail() {
    echo "docker/image.sh: $*" >&2
    exit 1
}

# choose_base: sets `base`, building the local one where there is no other.
choose_base() {
    base="${BASE_IMAGE:-$DISTROLESS}"
    if [[ -n "${BASE_IMAGE:-}" ]] || docker image inspect "$base" >/dev/null 2>&1; then
        return
    fi
    if timeout 120 docker pull --quiet "$base" >/dev/null 2>&1; then
        return
    fi
    echo "docker/image.sh: $base cannot be pulled; building on Debian's packages instead"
    "$ROOT/docker/base.sh"
    base=sightline-base:bookworm
}

# The labels: the workspace's version, and the commit where this is a checkout.
version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | sed -n 1p; }
revision() { git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown; }

docker info >/dev/null 2>&1 || fail "no Docker engine answers"
"$ROOT/scripts/fetch-onnxruntime.sh"
if [[ "${PREBUILT:-}" != 1 ]]; then
    cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --bin sightline
fi
choose_base
"$ROOT/docker/stage.sh" "$CONTEXT"
docker build --quiet -f "$ROOT/docker/Dockerfile" --target runtime-prebuilt -t "$IMAGE" \
    --build-arg BASE_IMAGE="$base" --build-arg VERSION="$(version)" \
    --build-arg REVISION="$(revision)" "$CONTEXT" >/dev/null

# A binary compiled on a newer system than the base asks for a newer C library than it has.
docker run --rm --network none "$IMAGE" --version >/dev/null ||
    fail "the binary does not start on $base. If it asks for a newer GLIBC, compile it inside:
  docker build -f docker/Dockerfile -t $IMAGE ."
echo "docker/image.sh: built $IMAGE on $base"
