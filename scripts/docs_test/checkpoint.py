"""Write a safetensors checkpoint of a network with random weights, scaled so that activations keep their size.

    python3 scripts/docs_test/checkpoint.py NETWORK CLASSES FILE

NETWORK is a key of tests/golden/state_dicts.json; CLASSES replaces the 1000 classes of a classification network.
"""

import array
import json
import math
import pathlib
import random
import struct
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"
NOISE = [random.Random(0).gauss(0, 1) for _ in range(1 << 12)]


def values(name, shape):
    """Return the elements of a tensor: batch norms that change nothing, no biases, and noise in the weights."""
    count = math.prod(shape)
    if len(shape) == 1:
        return array.array("f", [float(name.endswith(("running_var", "weight")))]) * count
    scale = math.sqrt(2 / math.prod(shape[1:]))
    block = array.array("f", [scale * value for value in NOISE])
    return (block * (count // len(block) + 1))[:count]


network, classes, file = sys.argv[1:]
shapes = json.loads((GOLDEN / "state_dicts.json").read_text())[network]
header, bodies, end = {}, [], 0
for name, shape in shapes.items():
    if name.endswith("num_batches_tracked"):
        continue
    if shape[:1] == [1000]:
        shape = [int(classes), *shape[1:]]
    body = values(name, shape).tobytes()
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(body)]}
    bodies.append(body)
    end += len(body)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(file, "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    out.writelines(bodies)
