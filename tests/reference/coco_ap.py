"""Compute COCO's box metrics with pycocotools and print them as a JSON list, which starts with AP, AP50, AP75.

Usage: coco_ap.py INSTANCES DETECTIONS (COCO annotations and COCO results). Exits with 77 if pycocotools is missing.
"""

import contextlib
import io
import json
import sys

try:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    evaluation = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
print(json.dumps(evaluation.stats.tolist()))
