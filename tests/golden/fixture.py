"""Functions of all recipes: they compare a result with the committed file, or write the file if `--write` is given."""

import math
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
PHOTOS = HERE / "../photos"
WRITE = "--write" in sys.argv[1:]
# Maximum number of differing tensors that are listed per file.
LISTED = 6


def arrays(file, tensors):
    """Write `tensors` (by name) to the safetensors file `file`, or compare them with it."""
    tensors = {name: torch.as_tensor(tensor).contiguous() for name, tensor in tensors.items()}
    if WRITE:
        save_file(tensors, HERE / file)
    else:
        compare(file, tensors, load_file(HERE / file))


def checkpoint(file, value, **options):
    """Write `value` to `file` with `torch.save`, or compare it with the file."""
    if WRITE:
        torch.save(value, HERE / file, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        # torch.save stores the file's name in the archive, so the name must be the same for equal bytes.
        path = Path(folder) / file
        torch.save(value, path, **options)
        same = path.read_bytes() == (HERE / file).read_bytes()
        print(f"{file}: {'identical bytes' if same else 'other bytes, so its tensors are compared'}")
        if not same:
            compare(file, flat(torch.load(path, weights_only=False)), flat(torch.load(HERE / file, weights_only=False)))


def text(file, content):
    """Write `content` to the text file `file`, or compare it with the file."""
    if WRITE:
        (HERE / file).write_text(content)
    else:
        print(f"{file}: {'identical' if (HERE / file).read_text() == content else 'DIFFERENT'}")


def flat(value, prefix=""):
    """Return the tensors in nested dictionaries and tuples by path; for a quantized tensor, its integers and scale."""
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
    """Print how many tensors of two dictionaries are equal, and the LISTED ones with the largest differences."""
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
    """Return the largest difference between two tensors as a number, and a sentence that describes it.

    The unit is the standard deviation of `expected`, or its absolute value if it has a single element.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return math.inf, f"DIFFERENT: {got.dtype} {list(got.shape)} for {expected.dtype} {list(expected.shape)}"
    got, expected = got.double(), expected.double()
    apart = (got - expected).abs()
    spread = (expected.std(correction=0) if expected.numel() > 1 else expected.abs()).item() or 1.0
    largest = apart.max().item() / spread if apart.numel() else 0.0
    return largest, f"{apart.count_nonzero()} of {apart.numel()} elements differ, by at most {largest:.1e} of the spread"
