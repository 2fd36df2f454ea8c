"""Compute the logits of a checkpoint with numpy in double precision: the values of `parity` in models/*/model.toml.

`sightline export` runs the network that it has built from the same file on the same input, and compares. This recipe
shares no code with it: it reads the checkpoint with Python's pickle machine and computes EfficientNet-Lite0 from its
published table, with TensorFlow's SAME padding.

    python tests/golden/parity.py efficientnet-lite0-57934424.pth                   # prints the table for model.toml
    python tests/golden/parity.py efficientnet-lite0-57934424.pth PHOTO...          # prints the five best classes

Needs numpy, and Pillow for photographs.
"""

import collections
import pathlib
import pickle
import struct
import sys

import numpy

import formula

# repeats, kernel, stride, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPS = 1e-3
SIDE = 224
# Elements of the logits that are compared: every 40th.
ELEMENTS = range(0, 1000, 40)
TYPES = {"FloatStorage": numpy.float32, "LongStorage": numpy.int64}


class Pickle(pickle.Unpickler):
    """Read the state dict of a file in torch's old format. Only tensors and dictionaries are allowed."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: (storage, offset, shape, stride)
        if module == "torch" and name in TYPES:
            return TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, saved):
        _, kind, key, *_ = saved
        self.storages[key] = kind
        return key


def read(path):
    """Return the tensors of the checkpoint at `path` as float64, by name."""
    with open(path, "rb") as file:
        for _ in range(3):  # magic number, protocol, sizes of the system's types
            pickle.load(file)
        reader = Pickle(file)
        state = reader.load()
        values = {}
        for key in pickle.load(file):
            (count,) = struct.unpack("<q", file.read(8))
            kind = numpy.dtype(reader.storages[key])
            values[key] = numpy.frombuffer(file.read(count * kind.itemsize), kind)
    tensors = {}
    for name, (key, offset, shape, stride) in state.items():
        storage = values[key][offset:]
        # The weights were converted from TensorFlow, whose axes have another order.
        strides = [step * storage.itemsize for step in stride]
        view = numpy.lib.stride_tricks.as_strided(storage, shape, strides)
        tensors[name] = view.astype(numpy.float64)
    return tensors


def pad(image, kernel, stride):
    """Pad `image` [C, H, W] as TensorFlow's SAME does: half before, the odd pixel after."""
    widths = [(0, 0)]
    for side in image.shape[1:]:
        outputs = -(-side // stride)
        total = max((outputs - 1) * stride + kernel - side, 0)
        widths.append((total // 2, total - total // 2))
    return numpy.pad(image, widths)


def conv(image, weight, stride):
    """Return the convolution of `image` [C, H, W] with `weight` [O, C, k, k], or [C, 1, k, k] for a depthwise one."""
    kernel = weight.shape[2]
    padded = pad(image, kernel, stride)
    height, width = (-(-side // stride) for side in image.shape[1:])
    total = 0
    for y in range(kernel):
        for x in range(kernel):
            part = padded[:, y : y + (height - 1) * stride + 1 : stride, x : x + (width - 1) * stride + 1 : stride]
            if weight.shape[1] == 1 and image.shape[0] > 1:
                total = total + part * weight[:, 0, y, x][:, None, None]
            else:
                total = total + numpy.tensordot(weight[:, :, y, x], part, 1)
    return total


def normalized(state, name, image):
    """Return the batch normalization called `name` of `image`."""
    get = lambda part: state[f"{name}.{part}"][:, None, None]
    return (image - get("running_mean")) / numpy.sqrt(get("running_var") + EPS) * get("weight") + get("bias")


def relu6(image):
    return numpy.clip(image, 0, 6)


def logits(state, image):
    """Return the logits [1000] of EfficientNet-Lite0 for `image` [3, 224, 224]."""
    image = relu6(normalized(state, "_bn0", conv(image, state["_conv_stem.weight"], 2)))
    block = 0
    for repeats, _, stride, expansion, _ in STAGES:
        for number in range(repeats):
            prefix = f"_blocks.{block}"
            inputs = image
            if expansion != 1:
                image = conv(image, state[f"{prefix}._expand_conv.weight"], 1)
                image = relu6(normalized(state, f"{prefix}._bn0", image))
            step = stride if number == 0 else 1
            image = conv(image, state[f"{prefix}._depthwise_conv.weight"], step)
            image = relu6(normalized(state, f"{prefix}._bn1", image))
            image = normalized(state, f"{prefix}._bn2", conv(image, state[f"{prefix}._project_conv.weight"], 1))
            if number > 0:
                image = image + inputs
            block += 1
    image = relu6(normalized(state, "_bn1", conv(image, state["_conv_head.weight"], 1)))
    return state["_fc.weight"] @ image.mean((1, 2)) + state["_fc.bias"]


def photograph(path):
    """Return the photograph at `path` as the network reads it."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    short = min(image.size)
    size = [int(256 * side / short) for side in image.size]
    image = image.resize(size, Image.BICUBIC)
    left, top = (round((side - SIDE) / 2) for side in image.size)
    pixels = numpy.asarray(image.crop((left, top, left + SIDE, top + SIDE)), numpy.float64)
    return ((pixels - 127) / 128).transpose(2, 0, 1)


def main(checkpoint, *photographs):
    state = read(checkpoint)
    for path in photographs:
        scores = logits(state, photograph(path))
        scores = numpy.exp(scores - scores.max())
        scores /= scores.sum()
        best = scores.argsort()[::-1][:5]
        print(pathlib.Path(path).name, [(int(index), round(float(scores[index]), 4)) for index in best])
    if not photographs:
        image = formula.uniform("parity", (3, SIDE, SIDE)).astype(numpy.float64)
        values = logits(state, image)
        print("[weights.parity]")
        print(f"elements = {list(ELEMENTS)}")
        print(f"values = {[round(float(values[index]), 6) for index in ELEMENTS]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
