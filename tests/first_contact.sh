#!/usr/bin/env bash
# Does what somebody does who meets Sightline for the first time, with the mistakes that people make, and checks the
# exit code and a phrase of the message each time. Prints a line per case.
#
#   tests/first_contact.sh              with target/release/sightline
#   BINARY=... tests/first_contact.sh   with another binary
#   IMAGE=... tests/first_contact.sh    also in a container of this image, if Docker responds (default: sightline:latest)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly BINARY="${BINARY:-$ROOT/target/release/sightline}"
readonly IMAGE="${IMAGE:-sightline:latest}"
readonly GOLDEN="$ROOT/tests/golden"
readonly SMALL=mobilenet_v3_small-width_mult_0.25-num_classes_10
readonly PHOTO="$ROOT/tests/photos/chelsea.png"
# Longest time in seconds for one command.
readonly PATIENCE=120

WORK="$(mktemp -d)"
readonly WORK
server=
cases=0
failures=0

cleanup() {
    [[ -z "$server" ]] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$WORK"
}
trap cleanup EXIT

# Settings of the caller must not change the results.
for variable in $(compgen -e | grep '^SIGHTLINE_' || true); do
    unset "$variable"
done
export XDG_DATA_HOME="$WORK/data"

sightline() { timeout "$PATIENCE" "$BINARY" "$@"; }

# report NAME EXPECTED CODE PHRASE FILE: compares the exit code and searches for the phrase in a file.
report() {
    local verdict=ok
    cases=$((cases + 1))
    if [[ "$2" != "$3" ]] || ! grep -qF -- "$4" "$5"; then
        verdict=FAILED
        failures=$((failures + 1))
    fi
    printf '%-6s  exit %-3s  %-58s  %s\n' "$verdict" "$3" "$1" "$4"
    if [[ "$verdict" == FAILED ]]; then
        echo "        expected exit code $2 and the phrase above; the command printed:"
        sed 's/^/        | /' "$5" | head -n 20
    fi
}

# expect NAME CODE PHRASE COMMAND...: runs a command that ends by itself.
expect() {
    local name="$1" expected="$2" phrase="$3" code=0
    shift 3
    "$@" >"$WORK/output" 2>&1 </dev/null || code=$?
    report "$name" "$expected" "$code" "$phrase" "$WORK/output"
}

# starts NAME PHRASE PATH FLAGS...: starts a server, requests PATH with a photograph, searches for the phrase in the
# response, and stops the server with SIGTERM.
starts() {
    local name="$1" phrase="$2" path="$3" address='' code=0 tries
    shift 3
    "$BINARY" serve --listen 127.0.0.1:0 "$@" >"$WORK/stdout" 2>"$WORK/output" </dev/null &
    server=$!
    for ((tries = 0; tries < 10 * PATIENCE; tries++)); do
        address="$(sed -n 's,.*listening on \(http://[^ ]*\).*,\1,p' "$WORK/stdout")"
        if [[ -n "$address" ]] && curl -fs --noproxy '*' -o "$WORK/ready" "$address/health/ready"; then
            break
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    curl -s --noproxy '*' -F "image=@$PHOTO" "$address$path" >"$WORK/response" || true
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || code=$?
    server=
    cat "$WORK/response" >>"$WORK/output"
    echo >>"$WORK/output"
    report "$name" 0 "$code" "$phrase" "$WORK/output"
}

fails() {
    local name="$1" code="$2" phrase="$3"
    shift 3
    expect "$name" "$code" "$phrase" sightline serve --listen 127.0.0.1:0 "$@"
}

export_small() { sightline export mobilenet_v3_small --width-mult 0.25 --num-classes 10 "$@"; }

first_run() {
    starts "no models: the built-in one" '"variant":"fp32"' /v1/classify
    expect "help" 0 "serve" sightline --help
    expect "a misspelt command" 2 "serve" sightline serv
    expect "predict" 0 "cat" sightline predict "$PHOTO"
    expect "predict without an image" 2 "IMAGE" sightline predict
    expect "predict of a file that is missing" 1 "gone.jpg" sightline predict gone.jpg
    expect "predict of a file that is no image" 1 "README.md" sightline predict "$ROOT/README.md"
    expect "the catalogue" 0 "efficientnet_lite0" sightline models
    expect "a misspelt model" 1 "did you mean" sightline predict --model eficientnet_lite0 "$PHOTO"
    expect "the address of a checkpoint" 0 "https://" sightline models mobilenet_v3_large --url
}

checkpoints() {
    local ending
    for ending in zip.pth legacy.pth fp16.pth checkpoint.pth; do
        expect "own checkpoint, $ending" 0 "" export_small --weights "$GOLDEN/$SMALL.$ending" -o "$WORK/own/$ending"
    done
    expect "own checkpoint, into a models directory" 0 "sightline serve" \
        export_small --weights "$GOLDEN/$SMALL.zip.pth" -o "$WORK/models/birds"
    starts "a models directory" '"model":"birds"' /v1/classify --models "$WORK/models"
    expect "a checkpoint that is missing" 1 "gone.pth" export_small --weights gone.pth -o "$WORK/own/x"
    expect "weights of another class count" 1 "num-classes" \
        sightline export mobilenet_v3_small --width-mult 0.25 --weights "$GOLDEN/$SMALL.zip.pth" -o "$WORK/own/x"
    expect "an ONNX file as a checkpoint" 1 "ONNX" export_small --weights "$WORK/models/birds/model.onnx" -o "$WORK/own/x"
    expect "a misspelt network" 1 'did you mean' sightline export mobilenet_v3_smal --weights x.pth -o "$WORK/own/x"
}

models_directories() {
    local birds="$WORK/models/birds"
    fails "a models directory that is missing" 64 "does not exist" --models "$WORK/gone"
    mkdir -p "$WORK/empty" "$WORK/deep/animals" "$WORK/bare/birds" "$WORK/broken/birds" "$WORK/closed"
    fails "an empty models directory" 64 "has no model" --models "$WORK/empty"
    cp -r "$birds" "$WORK/deep/animals/birds"
    fails "models one level too deep" 64 "pass --models $WORK/deep/animals" --models "$WORK/deep"
    cp "$birds/model.onnx" "$WORK/bare/birds/"
    fails "a network without a manifest" 64 "sightline inspect" --models "$WORK/bare"
    cp -r "$birds" "$WORK/broken/"
    echo 'task = "clasification"' >"$WORK/broken/birds/model.toml"
    fails "a broken manifest" 64 "birds/model.toml" --models "$WORK/broken"
    cp -r "$birds" "$WORK/closed/"
    chmod 000 "$WORK/closed/birds"
    # Root can read every folder, so another user starts the server if the script runs as root.
    if [[ "$(id -u)" != 0 ]]; then
        fails "a folder that cannot be read" 64 "chmod" --models "$WORK/closed"
    else
        chmod 755 "$WORK"
        cp "$BINARY" "$WORK/sightline"
        expect "a folder that cannot be read" 64 "permission denied for user 65532" timeout "$PATIENCE" \
            setpriv --reuid=65532 --regid=65532 --clear-groups "$WORK/sightline" serve --models "$WORK/closed"
    fi
    starts "int8 by name" '"variant":"int8"' "/v1/classify?model=efficientnet_lite0@int8"
    starts "a model that is not served" 'unknown_model' "/v1/classify?model=resnet19" --models "$WORK/models"
}

own_onnx() {
    local own="$WORK/onnx/own"
    mkdir -p "$own"
    cp "$WORK/models/birds/model.onnx" "$own/model.onnx"
    expect "inspect an own network" 0 "[preprocess]" sightline inspect "$own/model.onnx"
    sightline inspect --manifest "$own/model.onnx" >"$own/model.toml" 2>"$WORK/output" || true
    seq -f 'class %g' 10 >"$own/labels.txt"
    starts "an own network with its manifest" '"model":"own"' /v1/classify --models "$WORK/onnx"
    mkdir -p "$WORK/softmax/three"
    cp "$GOLDEN/onnx/softmax.onnx" "$WORK/softmax/three/model.onnx"
    expect "inspect a network that ends in Softmax" 0 'activation = "softmax"' sightline inspect "$GOLDEN/onnx/softmax.onnx"
    printf 'one\ntwo\nthree\n' >"$WORK/softmax/three/labels.txt"
    sightline inspect --manifest "$WORK/softmax/three/model.onnx" 2>/dev/null |
        sed 's/^activation = .*//' >"$WORK/softmax/three/model.toml" || true
    fails "a network that ends in Softmax" 1 'activation = "softmax"' --models "$WORK/softmax"
    expect "inspect a checkpoint" 1 "export" sightline inspect "$GOLDEN/$SMALL.zip.pth"
}

configuration() {
    echo 'max_images = 4' >"$WORK/good.toml"
    starts "a configuration file" '"variant":"fp32"' /v1/classify --config "$WORK/good.toml"
    echo 'max_imags = 4' >"$WORK/bad.toml"
    fails "a misspelt key" 64 'max_images' --config "$WORK/bad.toml"
    echo 'max_images = "four"' >"$WORK/bad.toml"
    fails "a value of the wrong type" 64 'max_images' --config "$WORK/bad.toml"
    fails "a configuration file that is missing" 64 "gone.toml" --config gone.toml
    expect "a complete configuration file" 0 "max_images = 4" sightline serve --config "$WORK/good.toml" --print-config
    expect "an invalid address" 2 "127.0.0.1:8080" sightline serve --listen nowhere
    expect "healthcheck without a server" 1 "127.0.0.1:9" sightline healthcheck --listen 127.0.0.1:9
    expect "healthcheck of a malformed URL" 2 "http://" sightline healthcheck --url nowhere
    expect "ONNX Runtime that is missing" 1 "libonnxruntime.so" env -u ORT_DYLIB_PATH \
        timeout "$PATIENCE" "$BINARY" predict --onnxruntime /gone/libonnxruntime.so "$PHOTO"
}

# contained NAME CODE PHRASE FOLDER: starts the image with FOLDER as its models directory; it must fail.
contained() {
    expect "container: $1" "$2" "$3" timeout "$PATIENCE" docker run --rm --read-only --cap-drop ALL \
        -v "$4:/models:ro" -e SIGHTLINE_MODELS=/models "$IMAGE"
}

containers() {
    if ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
        echo "skipped: containers: Docker does not respond or has no image $IMAGE"
        [[ -z "${SIGHTLINE_SKIP_LOG:-}" ]] || echo "first contact in a container: no image $IMAGE" >>"$SIGHTLINE_SKIP_LOG"
        return
    fi
    # The temporary folder is closed for the user of the image.
    chmod 755 "$WORK"
    contained "an empty models directory" 64 "has no model" "$WORK/empty"
    contained "a folder that user 65532 cannot read" 64 "65532" "$WORK/closed"
    contained "models one level too deep" 64 "--models" "$WORK/deep"
    expect "container: predict" 0 "cat" docker run --rm --read-only --cap-drop ALL \
        -v "$PHOTO:/photo.png:ro" "$IMAGE" predict /photo.png
}

first_run
checkpoints
models_directories
own_onnx
configuration
containers
chmod -R u+rwx "$WORK"
echo "$cases cases, $failures failed"
((failures == 0))
