"""Generate pseudo-random weights and inputs from tensor names: the Python version of onnx-export/src/formula.rs.

A tensor's values depend on its name and shape alone, so recipes and Rust tests use bit-identical weights without
sharing a file. Values are returned as `numpy.float32` arrays; without numpy, as `array.array("f")` in C order, since
`scripts/formula-checkpoint.py` uses the standard library only.
"""

import array
import math

try:
    import numpy
except ImportError:
    numpy = None

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def fnv1a(text):
    """Return the 64-bit FNV-1a hash of the UTF-8 bytes of `text`."""
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def split_mix(z):
    """Apply the output function of SplitMix64 to an int or to a numpy array of uint64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(name, shape):
    """Return values in [-1, 1) for the tensor `name`. Each has 24 random bits, which f32 represents exactly."""
    count, seed = math.prod(shape), fnv1a(name)
    if numpy is None:
        states = ((seed + i * STEP) & MASK for i in range(1, count + 1))
        return array.array("f", ((split_mix(state) >> 40) * 2.0**-23 - 1.0 for state in states))
    states = numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(STEP) + numpy.uint64(seed)
    unit = (split_mix(states) >> numpy.uint64(40)).astype(numpy.float32) * numpy.float32(2.0**-23)
    return (unit - numpy.float32(1)).reshape(shape)


def distribution(name, shape):
    """Return center and half-width of the interval of a tensor's values, as f32."""
    if name.endswith("running_var"):
        values = (1.0, 0.5)
    elif name.endswith("running_mean"):
        values = (0.0, 0.1)
    elif len(shape) >= 2:
        # The bound of He's uniform initialization, with which activations keep their scale from layer to layer.
        values = (0.0, math.sqrt(6.0 / math.prod(shape[1:])))
    elif name.endswith("weight"):
        values = (1.0, 0.1)
    else:
        values = (0.0, 0.05)
    return array.array("f", values)


def fill(name, shape):
    """Return the values of the tensor `name`: center + spread * uniform, rounded to f32 after each operation."""
    center, spread = distribution(name, shape)
    values = uniform(name, shape)
    if numpy is None:
        scaled = array.array("f", (spread * value for value in values))
        return array.array("f", (center + value for value in scaled))
    return numpy.float32(center) + numpy.float32(spread) * values


def network_input(name, shape, low, high):
    """Return a network's input with values in [low, high). Requires numpy."""
    low, high = numpy.float32(low), numpy.float32(high)
    return low + (high - low) * (uniform(name, shape) + numpy.float32(1)) / numpy.float32(2)


def fill_module(module, scale=()):
    """Fill the state dict of a torch module with generated values, switch the module to eval mode, and return it.

    `scale` maps prefixes to factors: a tensor of rank 2 or more is multiplied by the factors of all prefixes that
    its name starts with, in alphabetical order of the prefixes.
    """
    import torch

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            values = fill(name, tuple(tensor.shape))
            for prefix, factor in sorted(dict(scale).items()):
                if tensor.dim() >= 2 and name.startswith(prefix):
                    values = values * numpy.float32(factor)
            tensor.copy_(torch.from_numpy(numpy.asarray(values)))
    return module.eval()
