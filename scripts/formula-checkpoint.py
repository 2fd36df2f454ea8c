"""Write a safetensors checkpoint of NETWORK with weights from the formula in onnx-export/src/formula.rs.

The weights are for tests: they have the right names and shapes, and no license.

    python3 scripts/formula-checkpoint.py NETWORK FILE

NETWORK is a key of tests/golden/state_dicts.json. Needs Python 3 without packages.
"""

import array
import json
import math
import pathlib
import struct
import sys

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def fill(name, shape):
    if name.endswith("running_var"):
        centre, spread = 1.0, 0.5
    elif name.endswith("running_mean"):
        centre, spread = 0.0, 0.1
    elif len(shape) >= 2:
        centre, spread = 0.0, math.sqrt(6.0 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        centre, spread = 1.0, 0.1
    else:
        centre, spread = 0.0, 0.05
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    # Values with 24 random bits, uniform in -1..1 before scaling.
    low, scale = centre - spread, spread * 2.0**-23
    values = array.array("f")
    for _ in range(math.prod(shape)):
        state = (state + STEP) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        values.append(low + scale * ((z ^ (z >> 31)) >> 40))
    return values


network, file = sys.argv[1:]
shapes = json.loads((pathlib.Path(__file__).parent / "../tests/golden/state_dicts.json").read_text())[network]
header, bodies, end = {}, [], 0
for name, shape in shapes.items():
    if name.endswith("num_batches_tracked"):
        continue
    values = fill(name, shape)
    if sys.byteorder == "big":
        values.byteswap()
    body = values.tobytes()
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(body)]}
    bodies.append(body)
    end += len(body)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(file, "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    out.writelines(bodies)
