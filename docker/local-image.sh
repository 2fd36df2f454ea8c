#!/usr/bin/env bash
# Builds a container image from a program of this machine and the libraries that it loads, for tests on machines
# without an image registry.
#
#   docker/local-image.sh IMAGE PROGRAM [FILE...]      FILE: further files or folders, at the same path in the image
set -euo pipefail

readonly IMAGE="${1:?usage: docker/local-image.sh IMAGE PROGRAM [FILE...]}"
PROGRAM="$(command -v "${2:?usage: docker/local-image.sh IMAGE PROGRAM [FILE...]}")"
readonly PROGRAM
shift 2

root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{etc,tmp,var/lib,run}
chmod 755 "$root"
chmod 1777 "$root/tmp"
printf 'root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
# Static programs have no libraries; `ldd` then fails.
{ ldd "$PROGRAM" 2>/dev/null || true; } | grep -o '/[^ ]*' |
    while IFS= read -r library; do
        install -D -m 755 "$library" "$root$library"
    done
install -D -m 755 "$PROGRAM" "$root/bin/$(basename "$PROGRAM")"
for file in "$@"; do
    mkdir -p "$root$(dirname "$file")"
    cp -aL "$file" "$root$file"
done
tar -C "$root" --numeric-owner --owner=0 --group=0 -c . |
    docker import --change 'ENV PATH=/bin' --change "LABEL sightline.test=1" - "$IMAGE" >/dev/null
