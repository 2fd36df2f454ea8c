"""Compute mean IoU and pixel accuracy with numpy and print them as a JSON list.

Usage: miou.py ANNOTATIONS RESULTS (folders of PNG masks with the same names). Pixels annotated with 255 do not count,
and classes that occur in neither do not enter the mean. Exits with 77 if numpy or Pillow is missing.
"""

import json
import pathlib
import sys

try:
    import numpy as np
    from PIL import Image
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

CLASSES = 21
matrix = np.zeros((CLASSES, CLASSES), dtype=np.int64)
for result in sorted(pathlib.Path(sys.argv[2]).glob("*.png")):
    truth = np.array(Image.open(pathlib.Path(sys.argv[1]) / result.name)).astype(np.int64).ravel()
    predicted = np.array(Image.open(result)).astype(np.int64).ravel()
    counts = truth < CLASSES
    matrix += np.bincount(truth[counts] * CLASSES + predicted[counts], minlength=CLASSES**2).reshape(matrix.shape)
diagonal = np.diag(matrix)
union = matrix.sum(0) + matrix.sum(1) - diagonal
with np.errstate(invalid="ignore"):
    iou = diagonal / union
print(json.dumps([float(np.nanmean(iou)), float(diagonal.sum() / matrix.sum())]))
