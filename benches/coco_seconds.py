"""Evaluate boxes with pycocotools once for each line on stdin, and print the seconds and AP of each evaluation.

Usage: coco_seconds.py INSTANCES DETECTIONS. Reading the files is not measured.
"""

import contextlib
import io
import sys
import time

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    found = truth.loadRes(sys.argv[2])
for _ in sys.stdin:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    print(time.perf_counter() - start, evaluation.stats[0], flush=True)
