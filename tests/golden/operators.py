"""Recipe of `nms.safetensors`, `roi_align.safetensors` and `bilinear.safetensors`: single operators of torch(vision).

    python tests/golden/operators.py [--write]

Boxes are x1, y1, x2, y2. The files contain the inputs, which `formula.py` generates, and the outputs.
"""

import torch
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms, nms, roi_align

import fixture
import formula


def random(name, shape, low, high):
    return torch.from_numpy(formula.network_input(name, shape, low, high))


def boxes(name, count, extent, sides):
    """Return `count` random boxes with their center in [0, extent) and sides in the range `sides`."""
    center, size = random(f"{name}.centre", (count, 2), 0, extent), random(f"{name}.size", (count, 2), *sides)
    return torch.cat([center - size / 2, center + size / 2], 1)


def suppression():
    """Run NMS without and with classes: indices of the boxes that it keeps, highest score first."""
    rectangles, scores = boxes("nms", 3000, 640, (4, 160)), random("nms.score", (3000,), 0, 1)
    labels = random("nms.label", (3000,), 0, 91).int()
    tensors = {"nms.boxes": rectangles, "nms.scores": scores, "nms.labels": labels}
    for threshold in (0.3, 0.5, 0.7):
        tensors[f"nms.keep_{threshold}"] = nms(rectangles, scores, threshold).int()
        tensors[f"batched_nms.keep_{threshold}"] = batched_nms(rectangles, scores, labels, threshold).int()
    return tensors


def regions():
    """Run RoIAlign on 40 regions that alternate between the two images of a batch."""
    features = random("roi.features", (2, 8, 25, 34), -1, 1)
    image = torch.arange(40).remainder(2).float().unsqueeze(1)
    rois = torch.cat([image, boxes("roi", 40, 400, (2, 300))], 1)
    aligned = roi_align(features, rois, 7, 1 / 16, sampling_ratio=2)
    return {"roi.features": features, "roi.rois": rois, "roi.align_7x7_scale_1_16_sampling_2": aligned}


def upsampling():
    """Resize planes bilinearly to several sizes, and store every n-th pixel."""
    planes = random("bilinear", (1, 5, 17, 23), -3, 3)
    tensors = {"bilinear.input": planes}
    for height, width, every in [(11, 9, 3), (193, 257, 3), (520, 703, 9)]:
        resized = interpolate(planes, (height, width), mode="bilinear", align_corners=False)
        tensors[f"bilinear.{height}x{width}.every_{every}"] = resized[:, :, ::every, ::every]
    return tensors


if __name__ == "__main__":
    fixture.arrays("nms.safetensors", suppression())
    fixture.arrays("roi_align.safetensors", regions())
    fixture.arrays("bilinear.safetensors", upsampling())
