#!/usr/bin/env bash
# Drives the web pages of the release server in a headless Chromium, through chromedriver. Needs both, and Python with venv
# for axe, which checks the accessibility of the pages. Screenshots are written on a machine without other load.
#
#   scripts/browser-test.sh [FLAG...]      FLAGs are passed to `cargo test`
#
# Environment:
#   SIGHTLINE_TEST_BINARY   server to test (default: target/release/sightline)
#   SIGHTLINE_TEST_AXE      axe.min.js to use, instead of that of the PyPI package axe-playwright-python
#   SIGHTLINE_TEST_SHARED   folder with trained weights of a detector; without it the weights are generated
#   SIGHTLINE_SCREENSHOTS   if set, docs/images/ is written
set -euo pipefail

readonly AXE_VERSION=0.1.8
readonly PILLOW_VERSION=13.0.0
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly VENV="$ROOT/.cache/axe"
readonly PILLOW="$ROOT/.cache/pillow"

for program in "${CHROMEDRIVER:-chromedriver}" python3; do
    if ! command -v "$program" >/dev/null; then
        echo "browser-test.sh: $program is missing (Debian: apt-get install chromium chromium-driver python3-venv)" >&2
        exit 1
    fi
done

if [[ -z "${SIGHTLINE_TEST_AXE:-}" ]]; then
    if ! compgen -G "$VENV/lib/*/site-packages/axe_playwright_python/axe.min.js" >/dev/null; then
        echo "browser-test.sh: installing axe into .cache/axe"
        python3 -m venv --clear "$VENV"
        # Only the script in the package is used, so its dependencies are left out.
        "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps "axe-playwright-python==$AXE_VERSION"
    fi
    SIGHTLINE_TEST_AXE="$(compgen -G "$VENV/lib/*/site-packages/axe_playwright_python/axe.min.js")"
    export SIGHTLINE_TEST_AXE
fi

# shrink: reduces the screenshots to 256 colors. The colors of flat areas are kept exactly; photographs share the others.
shrink() {
    if [[ ! -x "$PILLOW/bin/python" ]]; then
        python3 -m venv --clear "$PILLOW"
        "$PILLOW/bin/pip" install --quiet --disable-pip-version-check "pillow==$PILLOW_VERSION"
    fi
    "$PILLOW/bin/python" - "$ROOT"/docs/images/*.png <<'END'
import sys
from PIL import Image

FLAT, SMALLEST = 96, 60
for path in sys.argv[1:]:
    image = Image.open(path)
    if image.mode == "P":
        continue
    image = image.convert("RGB")
    flat = [color for count, color in sorted(image.getcolors(1 << 24), reverse=True)[:FLAT] if count >= SMALLEST]
    mixed = image.quantize(256 - len(flat), Image.Quantize.MEDIANCUT).getpalette()
    colors = []
    for color in flat + list(zip(*[iter(mixed)] * 3)):
        # Pillow does not tell colors apart that are nearer than this.
        if all(max(abs(a - b) for a, b in zip(color, other)) >= 8 for other in colors):
            colors.append(color)
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for color in colors[:256] for value in color])
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
END
}

export CARGO_TARGET_DIR="$ROOT/target/browser-tests"
cargo test --locked --manifest-path "$ROOT/browser-tests/Cargo.toml" "$@"
[[ -z "${SIGHTLINE_SCREENSHOTS:-}" ]] || shrink
