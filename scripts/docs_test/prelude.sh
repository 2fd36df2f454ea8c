# Sourced before the commands of each block: `sightline serve` starts a server in the background and waits until it is
# ready, and `curl` waits for the server and fails at an error status. BINARY, STATE, PYTHON, SHARED and ROOT are set.
# shellcheck shell=bash

stop_server() {
    [[ -s "$STATE/pid" ]] || return 0
    kill -TERM "$(cat "$STATE/pid")" 2>/dev/null || true
    while kill -0 "$(cat "$STATE/pid")" 2>/dev/null; do sleep 0.02; done
    rm -f "$STATE/pid"
}

start_server() {
    stop_server
    rm -f "$STATE/log"
    "$BINARY" "$@" >"$STATE/log" 2>&1 </dev/null &
    local server=$!
    echo "$server" >"$STATE/pid"
    until grep -qs '^ready' "$STATE/log"; do
        if ! kill -0 "$server" 2>/dev/null; then
            rm -f "$STATE/starting" "$STATE/pid"
            cat "$STATE/log" >&2
            return 1
        fi
        sleep 0.02
    done
    rm -f "$STATE/starting"
}

sightline() {
    if [[ "${1:-}" == serve && " $* " != *" --print-config "* && " $* " != *" --help "* ]]; then
        start_server "$@"
    elif [[ "${1:-}" == quantize ]]; then
        # The weights are not trained, so that int8 need not agree; and few images are enough to see the command run.
        "$BINARY" "$@" --force
    else
        "$BINARY" "$@"
    fi
}

curl() {
    while [[ -e "$STATE/starting" ]]; do sleep 0.02; done
    command curl --noproxy '*' -sS --fail-with-body "$@"
}

# checkpoint NETWORK CLASSES FILE: writes a checkpoint with generated weights.
checkpoint() {
    local kept="$ROOT/target/docs-test/$1-$2.safetensors"
    if [[ ! -s "$kept" ]]; then
        mkdir -p "$(dirname "$kept")"
        "$PYTHON" "$ROOT/scripts/formula-checkpoint.py" "$1" "$kept.new" "$2"
        mv "$kept.new" "$kept"
    fi
    ln -sf "$kept" "$3"
}

# model NETWORK CLASSES NAME: exports NETWORK with generated weights into my-models/NAME, with labels `class 0`, ...
model() {
    checkpoint "$1" "$2" "$3.safetensors"
    for ((class = 0; class < $2; class++)); do echo "class $class"; done >"$3.txt"
    "$BINARY" export "$1" --weights "$3.safetensors" --num-classes "$2" --labels "$3.txt" -o "my-models/$3" >/dev/null
}

# official NETWORK DIR: exports NETWORK into DIR/NETWORK, with trained weights if they are there, else generated ones.
official() {
    local weights="${SHARED:-/nowhere}/weights/$1.pth"
    if [[ ! -s "$weights" ]]; then
        weights="$1.safetensors"
        checkpoint "$1" 1000 "$weights"
    fi
    "$BINARY" export "$1" --weights "$weights" -o "$2/$1" >/dev/null
}
