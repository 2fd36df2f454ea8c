"""Recipe of `preprocess_classify.safetensors`: torchvision's classification presets on `tests/photos`.

    python tests/golden/preprocess_classify.py [--write]

`<photo>.classify_<resize>_<crop>` is every 4th pixel of Resize(resize), CenterCrop(crop), ToTensor and Normalize of
the PIL image, [3, 56, 56] f32. torchvision 0.29.2 gives the same values.
"""

import numpy as np
import torch
from PIL import Image

import fixture

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def classify(image, short, crop):
    w, h = image.size
    size = (short, int(short * h / w)) if w <= h else (int(short * w / h), short)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (int(round((side - crop) / 2.0)) for side in size)
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), np.float32)
    planes = (pixels / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(planes.transpose(2, 0, 1)[:, ::4, ::4])


tensors = {}
for photo in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
    image = Image.open(fixture.PHOTOS / photo).convert("RGB")
    for short in (232, 256):
        tensors[f"{photo}.classify_{short}_224"] = torch.from_numpy(classify(image, short, 224))
fixture.arrays("preprocess_classify.safetensors", tensors)
