#!/usr/bin/env bash
# Copies the files of the runtime image into OUT, with the paths that they have in the image: the binary,
# ONNX Runtime in the binary's folder (where the binary finds it), the license texts, the bill of
# materials, and the start-up cache of the built-in model for the CPU of this machine.
#
#   docker/stage.sh OUT      reads target/release/sightline and .cache/onnxruntime/
#
# Environment, for another architecture:
#   BINARY     the binary (default: target/release/sightline)
#   LIBRARY    folder of ONNX Runtime (default: .cache/onnxruntime)
#   TARGET     platform of the bill of materials, such as aarch64-unknown-linux-gnu (default: this machine's)
#   CACHE=off  makes no start-up cache, which needs a binary that runs on this machine
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly OUT="${1:?usage: docker/stage.sh OUT}"
readonly DOC="$OUT/usr/share/doc"
readonly BINARY="${BINARY:-$ROOT/target/release/sightline}"
readonly LIBRARY="${LIBRARY:-$ROOT/.cache/onnxruntime}"

rm -rf "${OUT:?}/usr"
install -D -m 755 "$BINARY" "$OUT/usr/local/bin/sightline"
install -D -m 644 "$LIBRARY/libonnxruntime.so" "$OUT/usr/local/bin/libonnxruntime.so"
install -D -m 644 "$ROOT/LICENSE" "$DOC/sightline/LICENSE"
for text in LICENSE ThirdPartyNotices.txt; do
    if [[ -f "$LIBRARY/$text" ]]; then
        install -D -m 644 "$LIBRARY/$text" "$DOC/onnxruntime/$text"
    fi
done

# The bill of materials of the binary and of the files beside it.
mkdir -p "$OUT/usr/share/sightline"
"$ROOT/scripts/sbom.py" ${TARGET:+--target "$TARGET"} --library "$LIBRARY/libonnxruntime.so" >"$OUT/usr/share/sightline/sbom.cdx.json"

# The first prediction writes the optimized network. Other users must be able to read it.
if [[ "${CACHE:-on}" != off ]]; then
    entries="$OUT/usr/share/sightline/cache"
    "$OUT/usr/local/bin/sightline" predict --cache "$entries" "$ROOT/tests/photos/coffee_500x375.jpg" >/dev/null
    chmod 755 "$entries"
    chmod 644 "$entries"/*.networks
fi
chmod 755 "$OUT/usr/share/sightline"

# License notices of the built-in weights, in a folder per model.
find "$ROOT/models" -type f \( -name 'LICENSE*' -o -name 'NOTICE*' \) -print0 |
    while IFS= read -r -d '' text; do
        install -D -m 644 "$text" "$DOC/sightline/models/${text#"$ROOT/models/"}"
    done
