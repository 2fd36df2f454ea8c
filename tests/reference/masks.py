"""Check that masks decode to their classes. Each line of the file given as argument is JSON with a mask's classes,
its PNG (decoded with Pillow) and its run lengths (decoded with pycocotools). Exits with 77 if a package is missing."""

import base64
import io
import json
import sys

try:
    import numpy
    from PIL import Image
    from pycocotools import mask as coco
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

count = 0
for line in open(sys.argv[1]):
    case = json.loads(line)
    classes = numpy.array(case["classes"].split(), dtype=numpy.uint8).reshape(case["size"])
    image = Image.open(io.BytesIO(base64.b64decode(case["png"])))
    assert image.mode == "P", image.mode
    assert (numpy.asarray(image) == classes).all(), case["size"]
    assert [rle["class_id"] for rle in case["rle"]] == numpy.unique(classes).tolist()
    for rle in case["rle"]:
        inside = numpy.asfortranarray(classes == rle["class_id"]).astype(numpy.uint8)
        assert coco.encode(inside)["counts"].decode() == rle["counts"], (case["size"], rle)
        assert (coco.decode({"size": rle["size"], "counts": rle["counts"]}) == inside).all()
    count += 1
print(f"{count} masks agree")
