"""Recipe of the `quantized_mobilenet_v3_large` files: a quantized MobileNetV3-Large with generated weights.

    python tests/golden/quantized.py [--write]

- `-width_mult_0.5-num_classes_100.pth`: its state dict after calibration on eight random images and
  `torch.ao.quantization.convert`, for the backend qnnpack
- `-width_mult_0.5-num_classes_100.safetensors`: `logits` [4, 100] of that network, and `logits_fp32` before
  quantization, for the formula's input `input` [4, 3, 224, 224] in [-2, 2)
- `-integers.safetensors`: for the first image, every 4th pixel of the quantized outputs of the three MODULES
"""

import warnings

import torch
from torch.ao import quantization
from torchvision.models.quantization import mobilenet_v3_large

import fixture
import formula

NAME = "quantized_mobilenet_v3_large"
CASE = f"{NAME}-width_mult_0.5-num_classes_100"
MODULES = ("features.0.0", "features.0.2", "features.1.skip_add")


def images(name, count):
    return torch.from_numpy(formula.network_input(name, (count, 3, 224, 224), -2, 2))


def integers(model, batch):
    """Return the integers that the MODULES output; the addition is not called as a module, so its `add` is wrapped."""
    kept = {}
    for name in MODULES[:2]:
        keep = lambda _module, _inputs, output, name=name: kept.update({name: output})
        model.get_submodule(name).register_forward_hook(keep)
    addition = model.get_submodule(MODULES[2])
    plain = addition.add
    addition.add = lambda a, b: kept.setdefault(MODULES[2], plain(a, b))
    model(batch)
    addition.add = plain
    return {name: kept[name].int_repr()[0, :, ::4, ::4] for name in MODULES}


@torch.inference_mode()
def main():
    # torch.ao.quantization is deprecated, but torchvision's released quantized checkpoints were made with it.
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "qnnpack"
    model = formula.fill_module(mobilenet_v3_large(weights=None, quantize=False, width_mult=0.5, num_classes=100))
    batch = images("input", 4)
    logits = {"logits_fp32": model(batch)}
    model.fuse_model(is_qat=False)
    model.qconfig = quantization.get_default_qconfig("qnnpack")
    quantization.prepare(model, inplace=True)
    for i in range(8):
        model(images(f"calibration.{i}", 1))
    quantization.convert(model, inplace=True)
    fixture.checkpoint(f"{CASE}.pth", model.state_dict())
    # Scales depend on the last bits of fp32 sums, which differ between CPUs. To compare logits on any CPU, they are
    # computed with the scales of the committed checkpoint.
    model.load_state_dict(torch.load(fixture.HERE / f"{CASE}.pth", weights_only=False))
    fixture.arrays(f"{CASE}.safetensors", logits | {"logits": model(batch)})
    fixture.arrays(f"{NAME}-integers.safetensors", integers(model, batch[:1]))


if __name__ == "__main__":
    main()
