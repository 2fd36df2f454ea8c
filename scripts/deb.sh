#!/usr/bin/env bash
# Builds the Debian package of the server with dpkg-deb: the binary, ONNX Runtime, a systemd service, manual pages and
# completions. `make deb` runs this script. The same files give the same bytes.
#
#   scripts/deb.sh [OUT]          OUT: folder for the package (default: target/deb)
#
# Environment:
#   BINARY          the binary to package (default: one without paths of this machine, which is built)
#   ORT_DYLIB_PATH  the library to package (default: .cache/onnxruntime/libonnxruntime.so)
#   DEB_MAINTAINER  name and address of whoever builds the package
#   DEB_REVISION    revision of the package (default: 1)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly OUT="${1:-$ROOT/target/deb}"
readonly SOURCE="$ROOT/packaging/deb"
readonly LIBRARY="${ORT_DYLIB_PATH:-$ROOT/.cache/onnxruntime/libonnxruntime.so}"

fail() {
    echo "deb: $*" >&2
    exit 1
}

for tool in dpkg-deb dpkg objdump gzip; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian, Ubuntu: apt-get install dpkg binutils gzip)"
done
[[ -f "$LIBRARY" ]] || fail "$LIBRARY does not exist; run make onnxruntime first"

binary="${BINARY:-}"
[[ -n "$binary" ]] || binary="$("$ROOT/scripts/portable-build.sh")"
version="$("$binary" --version)"
version="${version#sightline }-${DEB_REVISION:-1}"
arch="$(dpkg --print-architecture)"
maintainer="${DEB_MAINTAINER:-Sightline maintainers <maintainers@sightline.example>}"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
umask 022
WORK="$(mktemp -d)"
readonly WORK STAGE="$WORK/sightline"
trap 'rm -rf "$WORK"' EXIT

# newest_version FILE PREFIX: prints the newest version of the symbols with this prefix that FILE needs.
newest_version() {
    objdump -T "$1" | grep -o "$2_[0-9][0-9.]*" | sed "s/^$2_//" | sort -V | tail -n 1
}

# depends: prints the packages with the libraries that the binary and ONNX Runtime need, with their versions.
depends() {
    local glibc
    glibc="$(for file in "$binary" "$LIBRARY"; do newest_version "$file" GLIBC; done | sort -V | tail -n 1)"
    # ONNX Runtime needs the C++ library; the symbols of its oldest supported version are in Debian 11.
    printf 'libc6 (>= %s), libgcc-s1 (>= 3.0), libstdc++6 (>= 10)' "$glibc"
}

# install_files: copies everything but the package's own documents and scripts into STAGE.
install_files() {
    BINARY="$binary" ORT_DYLIB_PATH="$LIBRARY" PREFIX=/usr DESTDIR="$STAGE" \
        ZSH_FUNCTIONS=share/zsh/vendor-completions "$ROOT/scripts/install.sh" install >/dev/null
    gzip -9n "$STAGE"/usr/share/man/man1/*.1
    install -D -m 644 "$SOURCE/default" "$STAGE/etc/default/sightline"
    local units="$STAGE/usr/lib/systemd/system" unit
    for unit in "$ROOT"/packaging/systemd/*; do
        install -D -m 644 "$unit" "$units/$(basename "$unit")"
    done
    # The package has a user, so that the owner of files of the service does not change with each start.
    # `DynamicUser=yes` would imply RemoveIPC.
    sed -i -e 's|^ExecStart=/usr/local/bin/|ExecStart=/usr/bin/|' \
        -e 's|^DynamicUser=yes$|User=sightline\nGroup=sightline\nRemoveIPC=yes|' \
        -e 's|^\(# Runs .* as a service of systemd\.\) docs/.*|\1|' \
        "$units/sightline.service"
}

# rust_libraries: prints the Rust libraries in the binary with their licenses.
rust_libraries() {
    echo "Rust libraries in /usr/bin/sightline, with their licenses:"
    echo
    (cd "$ROOT" && cargo tree --locked --edges no-dev,no-build --prefix none --format '{p}: {l}' --package sightline) |
        sed -e 's| (\*)$||' -e 's| ([^)]*)||' | sort -u
}

# document: writes what Debian expects in the folder of the package's documents.
document() {
    local doc="$STAGE/usr/share/doc/sightline"
    # The license is that of /usr/share/common-licenses.
    rm -f "$doc/LICENSE"
    install -m 644 "$SOURCE/copyright" "$doc/copyright"
    rust_libraries >"$doc/rust-libraries.txt"
    gzip -9nc "$ROOT/CHANGELOG.md" >"$doc/changelog.gz"
    {
        printf 'sightline (%s) unstable; urgency=medium\n\n' "$version"
        printf '  * The changes of Sightline are in changelog.gz.\n\n'
        printf ' -- %s  %s\n' "$maintainer" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
    } | gzip -9nc >"$doc/changelog.Debian.gz"
    chmod 644 "$doc"/changelog*.gz "$doc/rust-libraries.txt"
    install -D -m 644 "$SOURCE/lintian-overrides" "$STAGE/usr/share/lintian/overrides/sightline"
}

# control: writes the package's control files.
control() {
    local size script
    mkdir -p "$STAGE/DEBIAN"
    size="$(du -k -s --apparent-size "$STAGE" | cut -f 1)"
    sed -e "s|@VERSION@|$version|" -e "s|@ARCH@|$arch|" -e "s|@SIZE@|$size|" \
        -e "s|@MAINTAINER@|$maintainer|" -e "s|@DEPENDS@|$(depends)|" \
        "$SOURCE/control.in" >"$STAGE/DEBIAN/control"
    echo /etc/default/sightline >"$STAGE/DEBIAN/conffiles"
    for script in postinst prerm postrm; do
        install -m 755 "$SOURCE/$script" "$STAGE/DEBIAN/$script"
    done
    (cd "$STAGE" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$STAGE/DEBIAN/md5sums"
}

install_files
document
control
mkdir -p "$OUT"
package="$OUT/sightline_${version}_$arch.deb"
find "$STAGE" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$STAGE" "$package" >&2
echo "$package"
