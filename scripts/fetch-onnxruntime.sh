#!/usr/bin/env bash
# Fetches the pinned ONNX Runtime library to .cache/onnxruntime/libonnxruntime.so, with its license
# texts in the same folder. Does nothing if the verified library is already there.
#
# The release is available from two sources. They are separate builds, so each has its own checksum,
# which is that of the unpacked library, not of the download.
#   1. the release archive of microsoft/onnxruntime on GitHub, with curl or wget
#   2. if GitHub cannot be reached: the PyPI package `onnxruntime`, with `pip download` (any Python 3)
#
# Environment:
#   ONNXRUNTIME_SHA256  accept only a library with this SHA-256 instead of the two pinned ones, for
#                       example your own build, placed at the path above
#   ONNXRUNTIME_MACHINE fetch the library for this architecture, x86_64 or aarch64, instead of this machine's
#   ONNXRUNTIME_DIR     fetch it into this folder
set -euo pipefail

readonly VERSION=1.30.0
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly TARGET_DIR="${ONNXRUNTIME_DIR:-$ROOT/.cache/onnxruntime}"
readonly TARGET="$TARGET_DIR/libonnxruntime.so"

# To update: change VERSION, and replace the checksums by those of
# onnxruntime/capi/libonnxruntime.so.VERSION in the wheels (equal for every Python version) and of
# lib/libonnxruntime.so.VERSION in the release archives.
readonly MACHINE="${ONNXRUNTIME_MACHINE:-$(uname -m)}"
case "$(uname -s)-$MACHINE" in
    Linux-x86_64)
        readonly ARCHIVE="onnxruntime-linux-x64-$VERSION" PLATFORM=manylinux_2_28_x86_64
        archive_sha256=245a6f8c38127551057a1cd1ffd59f0a186a227ade4f3492dea2494eb565542e
        wheel_sha256=c902c70b3003c0e99fada202f37478c515ae9bba7944c2b2abd0017bae0c82ed
        ;;
    Linux-aarch64)
        readonly ARCHIVE="onnxruntime-linux-aarch64-$VERSION" PLATFORM=manylinux_2_28_aarch64
        archive_sha256=64e903a43a041240fd6bcffe0ac6d4fea47ef87bf24b9d097801bd00a9612a4b
        wheel_sha256=8a218e1e446880131115c368ec7005969a5022af9a15a26173de648fef0b7789
        ;;
    *)
        echo "fetch-onnxruntime: no pinned library for $(uname -s) on $MACHINE" >&2
        echo "  set ORT_DYLIB_PATH to a libonnxruntime.so of version $VERSION" >&2
        exit 1
        ;;
esac
if [[ -n "${ONNXRUNTIME_SHA256:-}" ]]; then
    wheel_sha256="$ONNXRUNTIME_SHA256"
    archive_sha256="$ONNXRUNTIME_SHA256"
fi
readonly wheel_sha256 archive_sha256

say() { echo "fetch-onnxruntime: $*" >&2; }

sha256_of() {
    local line
    line="$(sha256sum "$1")"
    echo "${line%% *}"
}

# is_pinned FILE: succeeds if FILE exists and its checksum is that of one of the two sources.
is_pinned() {
    local got
    [[ -f "$1" ]] || return 1
    got="$(sha256_of "$1")"
    [[ "$got" == "$wheel_sha256" || "$got" == "$archive_sha256" ]]
}

# from_archive DIR: downloads the release archive and unpacks its library and license texts into DIR.
from_archive() {
    local url="https://github.com/microsoft/onnxruntime/releases/download/v$VERSION/$ARCHIVE.tgz"
    say "downloading the release archive $ARCHIVE.tgz"
    if command -v curl >/dev/null; then
        curl -fsSL --connect-timeout 5 --speed-limit 1024 --speed-time 30 -o "$1/archive.tgz" "$url"
    elif command -v wget >/dev/null; then
        wget -q --tries=1 --dns-timeout=5 --connect-timeout=5 --read-timeout=30 \
            -O "$1/archive.tgz" "$url"
    else
        say "neither curl nor wget is installed"
        return 1
    fi || { say "the release archive cannot be reached"; return 1; }
    tar -xzf "$1/archive.tgz" -C "$1" --no-same-owner --strip-components=1 &&
        mv "$1/lib/libonnxruntime.so.$VERSION" "$1/libonnxruntime.so"
}

# find_pip: prints the command that runs pip, or fails.
find_pip() {
    local candidate
    for candidate in "python3 -m pip" pip3 pip; do
        if $candidate --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# unpack_wheel WHEEL DIR: unpacks the library and the license texts of the wheel into DIR.
unpack_wheel() {
    python3 - "$1" "$2" "$VERSION" <<'PYTHON'
import pathlib, sys, zipfile

wheel, target, version = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
wanted = {
    f"onnxruntime/capi/libonnxruntime.so.{version}": "libonnxruntime.so",
    "onnxruntime/LICENSE": "LICENSE",
    "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
}
with zipfile.ZipFile(wheel) as archive:
    for member, name in wanted.items():
        (target / name).write_bytes(archive.read(member))
PYTHON
}

# from_wheel DIR: downloads the wheel and unpacks its library and license texts into DIR.
from_wheel() {
    local pip wheel
    if ! pip="$(find_pip)" || ! command -v python3 >/dev/null; then
        say "downloading from PyPI needs Python 3 with pip; install it first"
        say "  (Debian, Ubuntu: apt-get install python3-pip; Fedora: dnf install python3-pip)"
        return 1
    fi
    say "downloading onnxruntime $VERSION from PyPI (about 28 MB)"
    # The library does not depend on the Python version; a fixed one makes pip accept the wheel on any host.
    # shellcheck disable=SC2086 # "python3 -m pip" is three words
    $pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation cp --python-version 3.12 --abi cp312 --platform "$PLATFORM" \
        --dest "$1" "onnxruntime==$VERSION" >&2 || return 1
    wheel="$(find "$1" -name 'onnxruntime-*.whl' -print -quit)"
    [[ -n "$wheel" ]] && unpack_wheel "$wheel" "$1"
}

# install_from DIR EXPECTED: verifies the library in DIR, then moves its files into place, the library last.
install_from() {
    local got text
    got="$(sha256_of "$1/libonnxruntime.so")"
    if [[ "$got" != "$2" ]]; then
        say "checksum mismatch: expected $2"
        say "                   got      $got"
        return 1
    fi
    for text in LICENSE ThirdPartyNotices.txt; do
        if [[ -f "$1/$text" ]]; then
            chmod 644 "$1/$text" && mv -f "$1/$text" "$TARGET_DIR/$text" || return 1
        fi
    done
    chmod 644 "$1/libonnxruntime.so" && mv -f "$1/libonnxruntime.so" "$TARGET" || return 1
    say "installed ONNX Runtime $VERSION at .cache/onnxruntime/libonnxruntime.so"
}

main() {
    if is_pinned "$TARGET"; then
        exit 0
    fi
    mkdir -p "$TARGET_DIR"
    # The staging folder is next to the target, so that the final move stays on one file system.
    staging="$(mktemp -d "$TARGET_DIR/fetch.XXXXXX")"
    trap 'rm -rf "$staging"' EXIT
    mkdir "$staging/archive" "$staging/wheel"

    if from_archive "$staging/archive" && install_from "$staging/archive" "$archive_sha256"; then
        exit 0
    fi
    if from_wheel "$staging/wheel" && install_from "$staging/wheel" "$wheel_sha256"; then
        exit 0
    fi
    say "failed: ONNX Runtime $VERSION could not be downloaded and verified. Try again with network access,"
    say "  or set ORT_DYLIB_PATH to an existing libonnxruntime.so of version $VERSION"
    exit 1
}

main
