#!/usr/bin/env bash
# Installs the Debian package in a fresh Debian system in a folder, runs the service's command as its user, upgrades,
# removes and purges the package, and checks what is left. `make deb-test` runs this script.
#
#   scripts/deb-test.sh PACKAGE.deb
#
# Needs root, debootstrap, lintian, man-db and curl. systemd is installed in the folder, but does not run there: it
# verifies the unit file, the test starts the unit's command with its environment, and a stand-in for systemctl records
# what the package asks for.
#
# Environment:
#   SUITE   Debian release (default: bookworm)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly SUITE="${SUITE:-bookworm}"
readonly UNIT=/usr/lib/systemd/system/sightline.service
# Longest time in seconds for the server to be ready, and to end.
readonly PATIENCE=120

fail() {
    echo "deb-test: $*" >&2
    exit 1
}

say() { echo "deb-test: $*"; }

[[ -f "${1:-}" ]] || fail "usage: scripts/deb-test.sh PACKAGE.deb (make deb builds the package)"
PACKAGE="$(realpath "$1")"
readonly PACKAGE
[[ "$(id -u)" == 0 ]] || fail "debootstrap and chroot need root"
for tool in debootstrap lintian man curl; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done

WORK="$(mktemp -d)"
readonly WORK SYSTEM="$WORK/system"
server=

cleanup() {
    [[ -z "$server" ]] || kill -KILL "$server" 2>/dev/null || true
    umount "$SYSTEM/proc" 2>/dev/null || true
    rm -rf --one-file-system "$WORK"
}
trap cleanup EXIT

inside() { chroot "$SYSTEM" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

# check NAME COMMAND...: runs a command that must succeed.
check() {
    local name="$1"
    shift
    "$@" >"$WORK/output" 2>&1 || {
        sed 's/^/    | /' "$WORK/output" >&2
        fail "FAILED: $name"
    }
    say "ok: $name"
}

check_package() {
    check "lintian has no errors" lintian --fail-on error "$PACKAGE"
    dpkg-deb -x "$PACKAGE" "$WORK/files"
    local page
    for page in "$WORK"/files/usr/share/man/man1/*.gz; do
        # Warnings are on stderr.
        man --warnings=w -E UTF-8 -l -Tutf8 -Z "$page" 2>>"$WORK/warnings" >/dev/null
    done
    check "the manual pages render without warnings" test ! -s "$WORK/warnings"
}

make_system() {
    say "downloading Debian $SUITE with debootstrap"
    debootstrap --variant=minbase --include=adduser,init-system-helpers,libstdc++6,ca-certificates,systemd \
        "$SUITE" "$SYSTEM" >"$WORK/debootstrap.log" 2>&1 || {
        tail -n 20 "$WORK/debootstrap.log" >&2
        fail "debootstrap failed"
    }
    mount -t proc proc "$SYSTEM/proc"
    # Stands for a running systemd.
    mkdir -p "$SYSTEM/run/systemd/system"
    cat >"$SYSTEM/usr/bin/systemctl" <<'END'
#!/bin/sh
echo "$*" >>/var/log/systemctl
case "$*" in
    *is-enabled*) echo enabled ;;
    *is-active*) exit 3 ;;
esac
END
    chmod 755 "$SYSTEM/usr/bin/systemctl"
}

# asked PHRASE: succeeds if the package has called systemctl with this phrase, and forgets the calls.
asked() {
    grep -q -- "$1" "$SYSTEM/var/log/systemctl" || { cat "$SYSTEM/var/log/systemctl"; return 1; }
    : >"$SYSTEM/var/log/systemctl"
}

# listing: prints all files of the system that a package may leave behind: not those of /run, which a start empties.
listing() {
    (cd "$SYSTEM" && find . -xdev -path ./proc -prune -o -path ./run -prune -o -path ./var/log -prune -o -path ./var/lib/dpkg -prune -o -print) |
        grep -vE '^\./(var/cache/ldconfig|etc/(passwd|group|shadow|gshadow)-$|tmp/)' | LC_ALL=C sort
}

install_package() {
    cp "$PACKAGE" "$SYSTEM/tmp/sightline.deb"
    check "$1" inside dpkg --install /tmp/sightline.deb
}

# setting NAME: prints the value of a setting of the unit file.
setting() { sed -n "s/^$1=//p" "$SYSTEM$UNIT"; }

# start_service PORT: starts the command of the unit as its user with its environment.
start_service() {
    local variables=() cache="$SYSTEM/var/cache/sightline" command
    mapfile -t variables < <(setting Environment)
    read -ra command < <(setting ExecStart)
    # systemd creates this folder (CacheDirectory=).
    install -d -m 700 "$cache"
    inside chown "$(setting User):" /var/cache/sightline
    chroot --userspec="$(setting User):$(setting Group)" "$SYSTEM" /usr/bin/env -i PATH=/usr/bin:/bin \
        "${variables[@]}" "SIGHTLINE_LISTEN=127.0.0.1:$1" "${command[@]}" >"$WORK/server.log" 2>&1 &
    server=$!
}

healthy() { inside SIGHTLINE_LISTEN="127.0.0.1:$1" /usr/bin/sightline healthcheck; }

serve_and_stop() {
    local port="$1" ready="" second status=0
    start_service "$port"
    for ((second = 0; second < PATIENCE; second++)); do
        if healthy "$port" >"$WORK/health" 2>&1; then ready=yes; break; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    [[ -n "$ready" ]] || { cat "$WORK/server.log" "$WORK/health" >&2; fail "FAILED: the service is not ready"; }
    say "ok: the service is ready"
    check "the service classifies a photograph" sh -c "curl -fsS -H 'content-type: image/png' \
        --data-binary @'$ROOT/tests/photos/chelsea.png' http://127.0.0.1:$port/v1/classify | grep -i cat"
    check "the service has filled its cache" sh -c "ls '$SYSTEM/var/cache/sightline' | grep networks"
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    check "the service ends with code 0 on SIGTERM" test "$status" = 0
}

check_package
make_system
listing >"$WORK/before"
install_package "the package installs"
# Debian's helper leaves this to systemctl, for which a recorder stands here.
check "the package asks systemd to enable its unit" grep -q "preset sightline.service" "$SYSTEM/var/log/systemctl"
check "the package asks systemd to read its unit and to start it" asked "start sightline.service"
check "the service has a user" inside id sightline
check "the unit file is valid" inside systemd-analyze verify --man=no sightline.service
check "the binary finds ONNX Runtime" inside /usr/bin/sightline doctor --listen 127.0.0.1:0
check "bash has completions" test -s "$SYSTEM/usr/share/bash-completion/completions/sightline"
serve_and_stop "${PORT:-27180}"
echo "SIGHTLINE_LOG=debug" >>"$SYSTEM/etc/default/sightline"
touch "$SYSTEM/var/lib/sightline/models/.kept"
install_package "the package is upgraded"
check "an upgrade restarts the service" asked "restart sightline.service"
check "an upgrade keeps changed settings" grep -q SIGHTLINE_LOG=debug "$SYSTEM/etc/default/sightline"
check "the package is removed" inside dpkg --remove sightline
check "a removal stops the service" asked "stop sightline.service"
check "a removal keeps settings and models" test -e "$SYSTEM/etc/default/sightline" -a -e "$SYSTEM/var/lib/sightline/models/.kept"
check "a removal deletes the program" test ! -e "$SYSTEM/usr/bin/sightline" -a ! -e "$SYSTEM/usr/lib/sightline"
install_package "the package is installed again"
check "the package is purged" inside dpkg --purge sightline
listing >"$WORK/after"
check "a purge leaves nothing" diff "$WORK/before" "$WORK/after"
check "a purge removes the user" sh -c "! grep sightline '$SYSTEM/etc/passwd'"
say "every check passed"
