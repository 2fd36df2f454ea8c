"""Recipe of the `mobilenet_v3_small-width_mult_0.25-num_classes_10` files: one network in each of torch's file formats.

    python tests/golden/containers.py [--write]

- `zip.pth`: a state dict in the ZIP format that torch writes since 1.6
- `legacy.pth`: the same in the format before 1.6, a sequence of pickles
- `checkpoint.pth`: a training checkpoint; `model` is the state dict of a `DataParallel` wrapper
- `fp16.pth`: the weights in half precision
- `safetensors`: `logits` of the network in fp32
"""

import torch
from torchvision.models import mobilenet_v3_small

import fixture
import formula

NAME = "mobilenet_v3_small-width_mult_0.25-num_classes_10"


@torch.inference_mode()
def main():
    model = formula.fill_module(mobilenet_v3_small(weights=None, width_mult=0.25, num_classes=10))
    images = torch.from_numpy(formula.network_input("input", (2, 3, 224, 224), -2, 2))
    fixture.arrays(f"{NAME}.safetensors", {"logits": model(images)})

    state = model.state_dict()
    fixture.checkpoint(f"{NAME}.zip.pth", state)
    fixture.checkpoint(f"{NAME}.legacy.pth", state, _use_new_zipfile_serialization=False)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.064}]}
    fixture.checkpoint(f"{NAME}.checkpoint.pth", {"model": wrapped, "epoch": 7, "optimizer": optimizer})
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    fixture.checkpoint(f"{NAME}.fp16.pth", halved)


if __name__ == "__main__":
    main()
