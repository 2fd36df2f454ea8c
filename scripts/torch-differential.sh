#!/usr/bin/env bash
# Compares the checkpoint reader with torch.load(weights_only=True) on mutated checkpoints. Fails if the reader accepts
# a file from which torch reads other tensors; see tests/golden/checkpoint_differential.py.
#
#   scripts/torch-differential.sh [COUNT [SEED]]     default: 2000 files, seed 1
#
# Environment:
#   TORCH_PYTHON   Python with torch (default: a virtual environment in .cache/torch, which this script makes; torch
#                  and the libraries that it imports have 3 GB)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${TORCH_PYTHON:-}" ]]; then
    TORCH_PYTHON=.cache/torch/bin/python
    if ! "$TORCH_PYTHON" -c 'import torch' 2>/dev/null; then
        echo "torch-differential.sh: installing torch"
        python3 -m venv .cache/torch
        "$TORCH_PYTHON" -m pip install --quiet "$(grep '^torch==' tests/golden/requirements.txt)" \
            "$(grep '^numpy==' tests/golden/requirements.txt)"
    fi
fi
cargo build --quiet --locked -p onnx-export --example describe_weights
target="$(cargo metadata --format-version 1 --no-deps --offline | "$TORCH_PYTHON" -c \
    'import json, sys; print(json.load(sys.stdin)["target_directory"])')"
exec "$TORCH_PYTHON" tests/golden/checkpoint_differential.py "$target/debug/examples/describe_weights" "$@"
