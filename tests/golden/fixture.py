"""What all recipes share: a recipe compares its result with the committed file, or writes it with `--write`."""

import math
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
PHOTOS = HERE / "../photos"
WRITE = "--write" in sys.argv[1:]
# Most differing tensors that are listed for a file.
LISTED = 6


def arrays(file, tensors):
    """Settles `file`, a safetensors file, whose tensors are `tensors`."""
    tensors = {name: torch.as_tensor(tensor).contiguous() for name, tensor in tensors.items()}
    if WRITE:
        save_file(tensors, HERE / file)
    else:
        compare(file, tensors, load_file(HERE / file))


def checkpoint(file, value, **options):
    """Settles `file`, a checkpoint that `torch.save` writes of `value`."""
    if WRITE:
        torch.save(value, HERE / file, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        # torch.save puts the file's name into the archive.
        path = Path(folder) / file
        torch.save(value, path, **options)
        same = path.read_bytes() == (HERE / file).read_bytes()
        print(f"{file}: {'identical bytes' if same else 'other bytes, so its tensors are compared'}")
        if not same:
            compare(file, flat(torch.load(path, weights_only=False)), flat(torch.load(HERE / file, weights_only=False)))


def text(file, content):
    """Settles `file`, a text file."""
    if WRITE:
        (HERE / file).write_text(content)
    else:
        print(f"{file}: {'identical' if (HERE / file).read_text() == content else 'DIFFERENT'}")


def flat(value, prefix=""):
    """The tensors in nested dictionaries and tuples by their path; a quantized tensor as its integers and scale."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}{key}/").items()}
    if isinstance(value, tuple):
        return flat(dict(enumerate(value)), prefix)
    if not isinstance(value, torch.Tensor):
        return {}
    if value.is_quantized:
        return {prefix + "integers": value.int_repr(), prefix + "scale": torch.tensor(value.q_scale())}
    return {prefix: value.detach()}


def compare(file, got, expected):
    """Prints how far the tensors of two dictionaries are from each other, and the LISTED that differ most."""
    if got.keys() != expected.keys():
        print(f"{file}: DIFFERENT NAMES: {sorted(got.keys() ^ expected.keys())}")
    common = sorted(got.keys() & expected.keys())
    apart = [(*difference(got[name], expected[name]), name) for name in common]
    apart = sorted((entry for entry in apart if entry[0] > 0), reverse=True)
    print(f"{file}: {len(common) - len(apart)} of {len(common)} tensors are equal")
    for _, text, name in apart[:LISTED]:
        print(f"    {name}: {text}")
    if len(apart) > LISTED:
        print(f"    and {len(apart) - LISTED} that differ less")


def difference(got, expected):
    """How far `got` is from `expected`: the largest difference and a sentence.

    The unit is the standard deviation of `expected`, or the value itself where there is one only.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return math.inf, f"DIFFERENT: {got.dtype} {list(got.shape)} for {expected.dtype} {list(expected.shape)}"
    got, expected = got.double(), expected.double()
    apart = (got - expected).abs()
    spread = (expected.std(correction=0) if expected.numel() > 1 else expected.abs()).item() or 1.0
    largest = apart.max().item() / spread if apart.numel() else 0.0
    return largest, f"{apart.count_nonzero()} of {apart.numel()} elements differ, by at most {largest:.1e} of the spread"
