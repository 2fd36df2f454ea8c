"""Recipe of `detect.safetensors` and `preprocess_detect.safetensors`: torchvision's detection pre- and postprocessing.

    python tests/golden/detect.py [--write]

The networks are not run: `maps` generates their outputs with `formula.py`. The files contain what torchvision's
functions compute from these outputs: anchors, region proposals, pyramid levels and detections. A row of the
detections is x1, y1, x2, y2, score, label.

`preprocess_detect` is GeneralizedRCNNTransform on `tests/photos`: `<photo>.800_1333` is every 32nd pixel,
`<photo>.320_640` and `<photo>.320x320` every 8th. A row of `sizes` is width, height, min_size, max_size, resized
width, resized height.
"""

from types import SimpleNamespace

import torch
from PIL import Image
from torchvision.models.detection import _utils, retinanet, roi_heads, rpn, ssd
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.functional import to_tensor

import fixture
import formula

RATIOS = (0.5, 1.0, 2.0)
MOBILENET = ((tuple((32, 64, 128, 256, 512)),) * 3, (RATIOS,) * 3)
RESNET = (((32,), (64,), (128,), (256,), (512,)), (RATIOS,) * 5)
RETINA = (tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in (32, 64, 128, 256, 512)), (RATIOS,) * 5)


def uniform(name, shape, scale=1.0, shift=0.0):
    return torch.from_numpy(formula.uniform(name, shape)) * scale + shift


def maps(name, grids, anchors, classes, scales):
    """Generate a detection head's outputs: per level, logits [1, A * K, h, w] and box deltas [1, 4 * A, h, w]."""
    (logit, shift), delta = scales
    logits, deltas = [], []
    for i, (grid, a) in enumerate(zip(grids, anchors)):
        logits.append(uniform(f"{name}.scores.{i}", (1, a * classes, *grid), logit, shift))
        deltas.append(uniform(f"{name}.deltas.{i}", (1, 4 * a, *grid), delta))
    return logits, deltas


def flat(maps, last):
    """Reshape the map of each level to [1, h * w * A, last], as the forward functions of torchvision's heads do."""
    out = []
    for m in maps:
        n, c, h, w = m.shape
        out.append(m.view(n, -1, last, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, last))
    return out


def anchors_of(generator, padded, resized, grids):
    images = ImageList(torch.zeros(1, 3, *padded), [resized])
    return generator(images, [torch.zeros(1, 1, *g) for g in grids])[0]


def propose(name, config, grids, padded, resized, scales, top, threshold):
    generator = AnchorGenerator(*config)
    counts = generator.num_anchors_per_location()
    head = lambda features: maps(name, grids, counts, 1, scales)
    n = {"training": 0, "testing": top}
    network = rpn.RegionProposalNetwork(generator, head, 0.7, 0.3, 256, 0.5, n, n, 0.7, threshold).eval()
    features = {str(i): torch.zeros(1, 1, *g) for i, g in enumerate(grids)}
    images = ImageList(torch.zeros(1, 3, *padded), [resized])
    boxes, _ = network(images, features)
    out[f"{name}.proposals"] = boxes[0]
    return boxes[0]


def store(name, detections, resized, original):
    boxes, scores, labels = detections
    boxes = resize_boxes(boxes, resized, original)
    out[f"{name}.detections"] = torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)


def box_head(name, proposals, resized, original, scales, threshold):
    r, k = len(proposals), 91
    logits = uniform(f"{name}.scores", (r, k), *scales[0])
    deltas = uniform(f"{name}.deltas", (r, 4 * k), scales[1])
    self = SimpleNamespace(
        box_coder=_utils.BoxCoder((10.0, 10.0, 5.0, 5.0)), score_thresh=threshold, nms_thresh=0.5, detections_per_img=100
    )
    found = roi_heads.RoIHeads.postprocess_detections(self, logits, deltas, [proposals], [resized])
    store(name, [f[0] for f in found], resized, original)


def retina(name, grids, padded, resized, original, k, scales):
    generator = AnchorGenerator(*RETINA)
    logits, deltas = maps(name, grids, generator.num_anchors_per_location(), k, scales)
    heads = {"cls_logits": flat(logits, k), "bbox_regression": flat(deltas, 4)}
    sizes = [h * w * 9 for h, w in grids]
    anchors = [list(anchors_of(generator, padded, resized, grids).split(sizes))]
    self = SimpleNamespace(
        box_coder=_utils.BoxCoder((1.0, 1.0, 1.0, 1.0)),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=300,
        topk_candidates=1000,
    )
    found = retinanet.RetinaNet.postprocess_detections(self, heads, anchors, [resized])[0]
    store(name, [found[key] for key in ("boxes", "scores", "labels")], resized, original)


def ssdlite(name, original, k, scales):
    generator = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    size = (320, 320)
    logits, deltas = maps(name, SSD_GRIDS, generator.num_anchors_per_location(), k, scales)
    heads = {"cls_logits": torch.cat(flat(logits, k), 1), "bbox_regression": torch.cat(flat(deltas, 4), 1)}
    anchors = [anchors_of(generator, size, size, SSD_GRIDS)]
    self = SimpleNamespace(
        box_coder=_utils.BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=0.001,
        nms_thresh=0.55,
        detections_per_img=300,
        topk_candidates=300,
    )
    found = ssd.SSD.postprocess_detections(self, heads, anchors, [size])[0]
    store(name, [found[key] for key in ("boxes", "scores", "labels")], size, original)


def levels(name, grids, resized):
    low = uniform(f"{name}.corner", (200, 2), 100.0, 100.0)
    side = uniform(f"{name}.side", (200, 2), 8.0).exp2() * 64
    boxes = torch.cat([low, low + side], 1)
    pool = MultiScaleRoIAlign([str(i) for i in range(len(grids))], 7, 2)
    pool({str(i): torch.zeros(1, 1, *g) for i, g in enumerate(grids)}, [boxes], [resized])
    out[f"{name}.boxes"] = boxes
    out[f"{name}.levels"] = pool.map_levels([boxes]).int()
    out[f"{name}.scales"] = torch.tensor(pool.scales)


SSD_GRIDS = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
MOBILENET_GRIDS = [(8, 10), (8, 10), (4, 5)]
RESNET_GRIDS = [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
RETINA_GRIDS = [(24, 20), (12, 10), (6, 5), (3, 3), (2, 2)]
PADDED, RESIZED, ORIGINAL = (256, 320), (250, 313), (480, 601)
TALL, TALL_RESIZED = (192, 160), (190, 131)

out = {}
out["anchors.mobilenet"] = anchors_of(AnchorGenerator(*MOBILENET), PADDED, RESIZED, MOBILENET_GRIDS)[1000:2000]
out["anchors.retina"] = anchors_of(AnchorGenerator(*RETINA), TALL, TALL_RESIZED, RETINA_GRIDS)[-2000:]
size = (320, 320)
ssdlite_boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
out["anchors.ssdlite"] = anchors_of(ssdlite_boxes, size, size, SSD_GRIDS)
# The image has odd sides, so its strides are not whole numbers and are rounded down.
out["anchors.odd"] = anchors_of(AnchorGenerator(*RESNET), (101, 67), (101, 67), [(13, 9), (7, 5), (4, 3), (2, 2), (1, 1)])

wide = ((4.0, -1.0), 0.5)
wild = ((4.0, 0.0), 6.0)
proposals = propose("rpn.mobilenet", MOBILENET, MOBILENET_GRIDS, PADDED, RESIZED, wide, 1000, 0.05)
propose("rpn.mobilenet_320", MOBILENET, MOBILENET_GRIDS, PADDED, RESIZED, wide, 150, 0.05)
propose("rpn.resnet", RESNET, RESNET_GRIDS, PADDED, RESIZED, wide, 1000, 0.0)
propose("rpn.wild", RESNET, RESNET_GRIDS, PADDED, RESIZED, wild, 300, 0.5)
box_head("head.few", proposals[:200], RESIZED, ORIGINAL, ((6.0, 0.0), 1.0), 0.05)
box_head("head.many", proposals[:300], RESIZED, ORIGINAL, ((5.0, 0.0), 4.0), 0.02)
retina("retina.few", RETINA_GRIDS, TALL, TALL_RESIZED, (700, 483), 7, ((3.0, -5.5), 1.0))
retina("retina.many", RETINA_GRIDS, TALL, TALL_RESIZED, (700, 483), 13, ((6.0, -3.0), 1.0))
ssdlite("ssd.few", (480, 640), 91, ((3.0, 0.0), 2.0))
ssdlite("ssd.many", (480, 640), 21, ((8.0, 0.0), 4.0))
levels("levels.resnet", [(200, 272), (100, 136), (50, 68), (25, 34)], (800, 1066))
levels("levels.mobilenet", [(25, 34), (25, 34)], (800, 1066))
levels("levels.small", [(10, 14), (10, 14)], (320, 426))
fixture.arrays("detect.safetensors", out)

out = {}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
for photo in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
    image = to_tensor(Image.open(fixture.PHOTOS / photo).convert("RGB"))
    for name, transform, every in [
        ("800_1333", GeneralizedRCNNTransform(800, 1333, MEAN, STD), 32),
        ("320_640", GeneralizedRCNNTransform(320, 640, MEAN, STD), 8),
        ("320x320", GeneralizedRCNNTransform(320, 320, [0.5] * 3, [0.5] * 3, 1, (320, 320)), 8),
    ]:
        planes = transform.eval()([image])[0].tensors[0]
        out[f"{photo}.{name}"] = planes[:, ::every, ::every]
rows = []
for width, height in [(a, b) for a in (1, 2, 3, 77, 97, 375, 427, 480, 640, 1023) for b in (31, 154, 161, 500, 612, 4000)]:
    for low, high in ((800, 1333), (320, 640)):
        transform = GeneralizedRCNNTransform(low, high, MEAN, STD).eval()
        try:
            resized = transform.resize(torch.zeros(3, height, width))[0].shape
            rows.append([width, height, low, high, resized[2], resized[1]])
        except RuntimeError:
            pass  # A side would have no pixel.
out["sizes"] = torch.tensor(rows, dtype=torch.int32)
fixture.arrays("preprocess_detect.safetensors", out)
