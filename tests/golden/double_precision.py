"""Makes double_precision.safetensors: what torchvision's MobileNetV3 segmentation networks compute without rounding.

Recipe: Python 3.11, torch 2.15, torchvision 0.29.2, numpy 2.4, safetensors 0.8:

    python tests/golden/double_precision.py

`<network>` is the main head's output at its own resolution, [21, h, w], computed in f64 from the f32 weights
and the f32 input of index.json, and rounded to f32 once, at the end. Printed is how far torch's f32 is from
it on one thread and on two, and those from each other: the largest and the root mean square difference,
relative to the standard deviation.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torchvision.models import segmentation
from torchvision.models.segmentation.fcn import FCNHead

HERE = Path(__file__).parent
MASK = (1 << 64) - 1


def uniform(name, shape):
    """As `onnx-export/src/formula.rs`."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return (unit * np.float32(2) - np.float32(1)).reshape(shape)


def fill(name, shape):
    if name.endswith("running_var"):
        centre, spread = 1.0, 0.5
    elif name.endswith("running_mean"):
        centre, spread = 0.0, 0.1
    elif len(shape) >= 2:
        centre, spread = 0.0, (6.0 / np.prod(shape[1:])) ** 0.5
    elif name.endswith("weight"):
        centre, spread = 1.0, 0.1
    else:
        centre, spread = 0.0, 0.05
    return np.float32(centre) + np.float32(spread) * uniform(name, shape)


def network(name):
    """In eval mode; FCN on MobileNetV3, which has no builder, is DeepLabV3 with another head."""
    builder = getattr(segmentation, name.replace("fcn", "deeplabv3"))
    model = builder(weights=None, weights_backbone=None, num_classes=21)
    if name == "fcn_mobilenet_v3_large":
        model.classifier = FCNHead(960, 21)
    return model.eval()


def scores(model, images):
    """The main head's output before it is enlarged."""
    with torch.inference_mode():
        features = model.backbone(images)
        return model.classifier(features if "high" in features else features["out"])[0]


def show(what, got, exact):
    difference = (got.double() - exact.double()) / exact.double().std(correction=0)
    print(f"{what}: {difference.abs().max():.1e} at most, {difference.square().mean().sqrt():.1e} rms")


tensors = {}
for case in json.loads((HERE / "index.json").read_text()):
    name = case["case"]
    if case["task"] != "segmentation" or "mobilenet" not in name:
        continue
    model = network(name)
    state = model.state_dict()
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(fill(key, tuple(tensor.shape))))
    low, high = (np.float32(case["input"][end]) for end in ("low", "high"))
    unit = uniform(case["input"]["name"], case["input"]["shape"])
    images = torch.from_numpy(low + (high - low) * (unit + np.float32(1)) / np.float32(2))
    single = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        single[threads] = scores(model, images)
    exact = scores(model.double(), images.double())
    for threads in (1, 2):
        show(f"{name}, f32 on {threads}", single[threads], exact)
    show(f"{name}, f32 on 1 and 2", single[1], single[2])
    tensors[name] = exact.float().contiguous()
save_file(tensors, HERE / "double_precision.safetensors")
