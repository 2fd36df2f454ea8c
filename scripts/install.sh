#!/usr/bin/env bash
# Installs the compiled server, ONNX Runtime, manual pages and completions for shells, or removes them again. `make install` and
# `make uninstall` run this script.
#
#   scripts/install.sh install|uninstall
#
# Environment:
#   PREFIX          folder to install into (default: /usr/local)
#   DESTDIR         folder that stands for / while a package is built (default: empty)
#   BINARY          the binary to install (default: target/release/sightline)
#   ZSH_FUNCTIONS   folder below PREFIX for the completions of zsh (default: share/zsh/site-functions)
#   ORT_DYLIB_PATH  the library to install (default: .cache/onnxruntime/libonnxruntime.so)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly PREFIX="${PREFIX:-/usr/local}"
readonly BINARY="${BINARY:-$ROOT/target/release/sightline}"
readonly LIBRARY="${ORT_DYLIB_PATH:-$ROOT/.cache/onnxruntime/libonnxruntime.so}"
# The binary looks for the library in ../lib/sightline, relative to its own folder.
readonly BIN="${DESTDIR:-}$PREFIX/bin" LIB="${DESTDIR:-}$PREFIX/lib/sightline"
readonly SHARE="${DESTDIR:-}$PREFIX/share"
readonly DOC="$SHARE/doc/sightline" MAN="$SHARE/man/man1"
# completion_files: prints SHELL and FILE of each script with completions, separated by a tab.
completion_files() {
    printf '%s\t%s\n' \
        bash "$SHARE/bash-completion/completions/sightline" \
        zsh "${DESTDIR:-}$PREFIX/${ZSH_FUNCTIONS:-share/zsh/site-functions}/_sightline" \
        fish "$SHARE/fish/vendor_completions.d/sightline.fish"
}

fail() {
    echo "install: $*" >&2
    exit 1
}

# license_texts: prints FILE and NAME of each license text, separated by a tab.
license_texts() {
    local text
    printf '%s\t%s\n' "$ROOT/LICENSE" LICENSE
    for text in LICENSE ThirdPartyNotices.txt; do
        printf '%s\t%s\n' "$(dirname "$LIBRARY")/$text" "onnxruntime/$text"
    done
    printf '%s\t%s\n' "$ROOT/src/draw/fonts/LICENSE" fonts/LICENSE
    # Notices of the built-in weights, in a folder per model.
    find "$ROOT/models" -type f \( -name 'LICENSE*' -o -name 'NOTICE*' \) |
        while IFS= read -r text; do
            printf '%s\t%s\n' "$text" "models/${text#"$ROOT/models/"}"
        done
}

# install_help: writes the manual pages and the completions, which the binary prints itself.
install_help() {
    local shell file
    "$BINARY" man "$MAN" >/dev/null
    while IFS=$'\t' read -r shell file; do
        mkdir -p "$(dirname "$file")"
        "$BINARY" completions "$shell" >"$file"
        chmod 644 "$file"
    done < <(completion_files)
}

install_all() {
    local text name
    [[ -f "$BINARY" ]] || fail "$BINARY does not exist; run make build first"
    [[ -f "$LIBRARY" ]] || fail "$LIBRARY does not exist; run make onnxruntime first"
    # `install` replaces files instead of writing into them, so a running server keeps its own.
    install -D -m 755 "$BINARY" "$BIN/sightline" ||
        fail "cannot write to $BIN; run this as root, or choose a folder of yours: make install PREFIX=\$HOME/.local"
    install -D -m 644 "$LIBRARY" "$LIB/libonnxruntime.so"
    while IFS=$'\t' read -r text name; do
        # An ONNX Runtime from elsewhere may have no license texts in its folder.
        [[ ! -f "$text" ]] || install -D -m 644 "$text" "$DOC/$name"
    done < <(license_texts)
    install_help
    echo "Installed $BIN/sightline and $LIB/libonnxruntime.so."
    if [[ -n "${DESTDIR:-}" ]]; then
        return
    elif [[ ":$PATH:" == *":$BIN:"* ]]; then
        echo "Next: sightline serve starts the server, sightline --help lists the commands."
    else
        echo "Next: $BIN/sightline serve starts the server. To run it as \`sightline\`: export PATH=\"$BIN:\$PATH\""
    fi
}

uninstall_all() {
    local file
    rm -f "$BIN/sightline" "$LIB/libonnxruntime.so" "$MAN"/sightline.1 "$MAN"/sightline-*.1
    while IFS=$'\t' read -r _ file; do
        rm -f "$file"
    done < <(completion_files)
    rm -rf "$DOC"
    [[ ! -d "$LIB" ]] || rmdir --ignore-fail-on-non-empty "$LIB"
    echo "Removed $BIN/sightline and $LIB/. Models and configuration files are still there."
}

case "${1:-}" in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) fail "usage: scripts/install.sh install|uninstall" ;;
esac
