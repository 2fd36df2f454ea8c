"""Compares run lengths with pycocotools': reads a JSON mask and its encoding from each line of a file."""

import json
import sys

try:
    import numpy
    from pycocotools import mask as coco
except ImportError as error:
    print(f"no pycocotools: {error}")
    sys.exit()

count = 0
for line in open(sys.argv[1]):
    case = json.loads(line)
    classes = numpy.array(case["classes"].split(), dtype=numpy.uint8).reshape(case["size"])
    assert [rle["class_id"] for rle in case["rle"]] == numpy.unique(classes).tolist()
    for rle in case["rle"]:
        inside = numpy.asfortranarray(classes == rle["class_id"]).astype(numpy.uint8)
        assert coco.encode(inside)["counts"].decode() == rle["counts"], (case["size"], rle)
        assert (coco.decode({"size": rle["size"], "counts": rle["counts"]}) == inside).all()
    count += 1
print(f"{count} masks agree")
