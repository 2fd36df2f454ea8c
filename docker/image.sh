#!/usr/bin/env bash
# Builds the runtime image from a binary compiled on this machine and the fetched ONNX Runtime.
#
# Environment:
#   IMAGE       name of the image (default: sightline:latest)
#   PREBUILT    1 uses the existing target/release/sightline without compiling
#   BASE_IMAGE  base image (default: distroless if it can be pulled, else the image of docker/base.sh)
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

# choose_base: sets `base`, and builds the local base image if no other is available.
choose_base() {
    base="${BASE_IMAGE:-$DISTROLESS}"
    if [[ -n "${BASE_IMAGE:-}" ]] || docker image inspect "$base" >/dev/null 2>&1; then
        return
    fi
    if timeout 120 docker pull --quiet "$base" >/dev/null 2>&1; then
        return
    fi
    echo "docker/image.sh: cannot pull $base; building a base image from Debian's packages instead"
    "$ROOT/docker/base.sh"
    base=sightline-base:bookworm
}

# Values of the image's labels: the version of the workspace, and the commit and its time if this is a git checkout.
version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | sed -n 1p; }
revision() { git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown; }
# The time of the commit, so that equal sources give equal labels.
created() { TZ=UTC git -C "$ROOT" log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ; }
source_url() { sed -n 's/^repository = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | sed -n 1p; }

docker info >/dev/null 2>&1 || fail "Docker does not respond"
"$ROOT/scripts/fetch-onnxruntime.sh"
if [[ "${PREBUILT:-}" != 1 ]]; then
    cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --bin sightline
fi
choose_base
"$ROOT/docker/stage.sh" "$CONTEXT"
docker build --quiet -f "$ROOT/docker/Dockerfile" --target runtime-prebuilt -t "$IMAGE" \
    --build-arg BASE_IMAGE="$base" --build-arg VERSION="$(version)" \
    --build-arg REVISION="$(revision)" --build-arg CREATED="$(created)" --build-arg SOURCE="$(source_url)" \
    "$CONTEXT" >/dev/null

# A binary compiled on a newer system than the base image can need a newer C library than the image has.
docker run --rm --network none "$IMAGE" --version >/dev/null ||
    fail "the binary does not start on $base; if it needs a newer GLIBC, compile it in the image:
  docker build -f docker/Dockerfile -t $IMAGE ."
echo "docker/image.sh: built $IMAGE on $base"
