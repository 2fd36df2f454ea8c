#!/usr/bin/env bash
# Writes the annotated photographs of the README to docs/images/, with trained weights of SSDlite.
#
#   scripts/docs-images.sh WEIGHTS.pth       with target/release/sightline
#   BINARY=... scripts/docs-images.sh ...    with another binary
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary="${BINARY:-target/release/sightline}"
work="$(mktemp -d)"
trap 'rm -rf "$work"; [[ -z "${server:-}" ]] || kill "$server" 2>/dev/null || true' EXIT

"$binary" export ssdlite320_mobilenet_v3_large --weights "$1" -o "$work/models/ssdlite" >/dev/null
"$binary" serve --models "$work/models" --listen "unix:$work/http.sock" >"$work/log" 2>&1 &
server=$!
until grep -q '^ready' "$work/log"; do
    kill -0 "$server"
    sleep 0.1
done
mkdir -p docs/images
for photo in astronaut coffee chelsea; do
    curl -sS --fail-with-body --unix-socket "$work/http.sock" -H 'accept: image/jpeg' \
        --data-binary "@tests/photos/$photo.png" -H 'content-type: image/png' -o "docs/images/detect-$photo.jpg" \
        'http://localhost/v1/detect?annotate=true&score_threshold=0.8'
done
