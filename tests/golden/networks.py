"""Recipe of `<network>.safetensors`, `detection_images.safetensors` and `state_dicts.json`: outputs of torchvision.

    python tests/golden/networks.py [--write] [CASE...]

Runs the networks of `index.json` with weights and inputs that `formula.py` generates, and stores:

- classification: `logits` [N, classes]
- segmentation: `mask` [N, H, W] u8, the best class of each pixel; `out_stride4` and `aux_stride4`, every 4th pixel
  of the scores of the main and the auxiliary head at the input's size
- detection: `preprocessed_stride8`, every 8th pixel of the preprocessed image; the heads' outputs for the first
  proposals or anchors; the final `boxes` (x1, y1, x2, y2 in pixels of the image), `labels` and `scores`

The backbones of the Faster R-CNN and RetinaNet networks have FrozenBatchNorm2d, as torchvision's released weights
have: epsilon 1e-5 in MobileNetV3, 0 in ResNet-50.
"""

import json
import sys

import torch
from torch.nn.functional import interpolate
from torchvision import models
from torchvision.models import detection, segmentation
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FrozenBatchNorm2d

import fixture
import formula

INDEX = json.loads((fixture.HERE / "index.json").read_text())
BUILDERS = {"classification": models, "segmentation": segmentation, "detection": detection}


def image(height, width):
    """Return a detector's image [3, height, width] in [0, 1): a random 12 x 16 image, upsampled bilinearly."""
    cells = torch.from_numpy(formula.network_input("input", (1, 3, 12, 16), 0, 1))
    return interpolate(cells, (height, width), mode="bilinear", align_corners=False)[0]


def freeze(module, eps):
    """Replace each BatchNorm2d below `module` with a FrozenBatchNorm2d."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=eps))
        else:
            freeze(child, eps)


def network(case):
    """Return the network of a case in eval mode, with generated weights."""
    args, name = dict(case["args"]), case["builder"]
    args["weights"] = None
    if case["task"] != "classification":
        args["weights_backbone"] = None
    if case["task"] == "segmentation" and "lraspp" not in name:
        args["aux_loss"] = True
    if name == "fcn_mobilenet_v3_large":
        # torchvision has no function for FCN with this backbone, so the head of DeepLabV3 is replaced.
        model = segmentation.deeplabv3_mobilenet_v3_large(**args)
        model.classifier = FCNHead(960, args["num_classes"])
    else:
        model = getattr(BUILDERS[case["task"]], name)(**args)
    if case["task"] == "detection" and "ssdlite" not in name:
        freeze(model.backbone.body, 0.0 if "resnet" in name else 1e-5)
    return formula.fill_module(model, case.get("scale", {}))


def parameters(model):
    """Return the number of trainable parameters, auxiliary heads included; FrozenBatchNorm2d has none."""
    return sum(tensor.numel() for tensor in model.parameters())


def network_input(case):
    """Return the input [N, 3, H, W] of a classification or segmentation case."""
    fields = case["input"]
    return torch.from_numpy(formula.network_input(fields["name"], fields["shape"], fields["low"], fields["high"]))


def classify(model, case):
    return {"logits": model(network_input(case))}


def segment(model, case):
    outputs = model(network_input(case))
    tensors = {f"{head}_stride4": scores[:, :, ::4, ::4] for head, scores in outputs.items()}
    return tensors | {"mask": outputs["out"].argmax(1).to(torch.uint8)}


def detect(model, case):
    tensors = {}

    def keep(module, tensors_of):
        module.register_forward_hook(lambda _module, _inputs, output: tensors.update(tensors_of(output)))

    def levels(output):
        names = ("rpn_objectness", "rpn_deltas")
        return {f"{name}_{i}": map for name, maps in zip(names, output) for i, map in enumerate(maps)}

    keep(model.transform, lambda output: {"preprocessed_stride8": output[0].tensors[:, :, ::8, ::8]})
    if hasattr(model, "rpn"):
        keep(model.rpn.head, levels)
        keep(model.rpn, lambda output: {"proposals": output[0][0]})
        predictor = ("class_logits", "box_regression")
        keep(model.roi_heads.box_predictor, lambda output: {n: rows[:64] for n, rows in zip(predictor, output)})
    else:
        keep(model.head, lambda output: {f"{name}_head": rows[:, :256] for name, rows in output.items()})
    tensors.update(model([image(case["input"]["height"], case["input"]["width"])])[0])
    return tensors


@torch.inference_mode()
def main():
    wanted = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    run = {"classification": classify, "segmentation": segment, "detection": detect}
    shapes = json.loads((fixture.HERE / "state_dicts.json").read_text())
    for case in INDEX:
        name = case["case"]
        if wanted and name not in wanted:
            continue
        model = network(case)
        assert parameters(model) == case["params"], f"{name}: {parameters(model)} parameters"
        state = model.state_dict().items()
        shapes[name] = {key: list(value.shape) for key, value in state if not key.endswith("num_batches_tracked")}
        fixture.arrays(f"{name}.safetensors", run[case["task"]](model, case))
    fixture.text("state_dicts.json", json.dumps(shapes))
    sizes = {(case["input"]["height"], case["input"]["width"]) for case in INDEX if case["task"] == "detection"}
    fixture.arrays("detection_images.safetensors", {f"{h}x{w}": image(h, w) for h, w in sorted(sizes)})


if __name__ == "__main__":
    main()
