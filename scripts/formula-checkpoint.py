"""Write a safetensors checkpoint of NETWORK to FILE, with the generated weights of tests/golden/formula.py.

The weights have the names and shapes of trained ones, but are not trained: they are for tests only.

    python3 scripts/formula-checkpoint.py NETWORK FILE [CLASSES]

NETWORK is a key of tests/golden/state_dicts.json, CLASSES the number of classes of a classification network
(default: 1000). Needs only the standard library of Python 3, and is faster with numpy.
"""

import json
import pathlib
import struct
import sys

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
sys.path.insert(0, str(GOLDEN))
import formula

assert sys.byteorder == "little", "safetensors holds little-endian values"
network, file, classes = [*sys.argv[1:], "1000"][:3]
shapes = json.loads((GOLDEN / "state_dicts.json").read_text())[network]
header, bodies, end = {}, [], 0
for name, shape in shapes.items():
    if name.endswith("num_batches_tracked"):
        continue
    if shape[:1] == [1000]:
        shape = [int(classes), *shape[1:]]
    body = formula.fill(name, shape).tobytes()
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(body)]}
    bodies.append(body)
    end += len(body)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(file, "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    out.writelines(bodies)
