#!/usr/bin/env bash
# Drives the web pages of the release server in a headless Chromium, through chromedriver. Needs both, and Python with venv
# for axe, which checks the accessibility of the pages.
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
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly VENV="$ROOT/.cache/axe"

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

export CARGO_TARGET_DIR="$ROOT/target/browser-tests"
exec cargo test --locked --manifest-path "$ROOT/browser-tests/Cargo.toml" "$@"
