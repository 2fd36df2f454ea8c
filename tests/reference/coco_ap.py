"""COCO's average precision of boxes: prints AP, AP50, AP75 and so on as a JSON list.

Usage: coco_ap.py INSTANCES DETECTIONS, both in COCO's formats. Without pycocotools, the exit status is 77.
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
