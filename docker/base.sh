#!/usr/bin/env bash
# Builds sightline-base:bookworm, a base image for machines without an image registry. It consists of
# Debian packages, downloaded and verified by debootstrap: only those that a C++ library needs, without a
# shell or a package manager, as in distroless images.
#
#   docker/base.sh [--force]     --force rebuilds an existing image
#
# Needs root (for debootstrap), debootstrap, dpkg-deb and Docker.
set -euo pipefail

readonly SUITE=bookworm
readonly IMAGE="sightline-base:$SUITE"
readonly PACKAGES=(base-files ca-certificates gcc-12-base libc6 libgcc-s1 libstdc++6)

fail() {
    echo "docker/base.sh: $*" >&2
    exit 1
}

check_tools() {
    local tool
    for tool in debootstrap dpkg-deb docker; do
        command -v "$tool" >/dev/null ||
            fail "$tool is missing (Debian, Ubuntu: apt-get install $tool)"
    done
    [[ "$(id -u)" == 0 ]] || fail "debootstrap needs root: run docker/base.sh with sudo"
}

# download DIR: downloads Debian's minimal packages and ours into DIR and verifies them. Installs nothing.
download() {
    debootstrap --variant=minbase --include=ca-certificates,libstdc++6 --download-only \
        "$SUITE" "$1" >"$1.log" 2>&1 || {
        tail -n 20 "$1.log" >&2
        fail "debootstrap failed to download Debian's packages"
    }
}

# unpack DEBS ROOT: unpacks PACKAGES into ROOT, and records them where image scanners look for packages.
unpack() {
    local name deb
    mkdir -p "$2/var/lib/dpkg/status.d"
    for name in "${PACKAGES[@]}"; do
        deb="$(find "$1/var/cache/apt/archives" -name "${name}_*.deb" -print -quit)"
        [[ -n "$deb" ]] || fail "debootstrap did not download the package $name"
        dpkg-deb -x "$deb" "$2"
        dpkg-deb -f "$deb" >"$2/var/lib/dpkg/status.d/$name"
    done
}

# complete ROOT: writes what the packages' install scripts would write, and removes files that nothing reads.
complete() {
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' \
        'nonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin' >"$1/etc/passwd"
    printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' >"$1/etc/group"
    printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' >"$1/etc/nsswitch.conf"
    rm -rf "$1"/usr/lib/*/gconv "$1/usr/share/ca-certificates" "$1"/usr/share/{info,lintian,man} \
        "$1"/usr/sbin/*
    find "$1/usr/share/doc" -type f ! -name copyright -delete
    mkdir -p "$1/tmp" && chmod 1777 "$1/tmp"
}

main() {
    if [[ "${1:-}" != --force ]] && docker image inspect "$IMAGE" >/dev/null 2>&1; then
        echo "docker/base.sh: $IMAGE exists (--force rebuilds it)"
        return
    fi
    check_tools
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/root"
    echo "docker/base.sh: downloading Debian $SUITE packages with debootstrap"
    download "$work/debs"
    unpack "$work/debs" "$work/root"
    complete "$work/root"
    tar -C "$work/root" --numeric-owner --owner=0 --group=0 -c . |
        docker import --message "Debian $SUITE: the C and C++ runtime only" - "$IMAGE" >/dev/null
    echo "docker/base.sh: built $IMAGE"
}

main "$@"
