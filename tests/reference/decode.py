"""Writes pictures as Pillow decodes them, one after the other: width and height as two little-endian u32,
then RGB bytes; 0 and 0 for what it refuses."""

import struct
import sys

from PIL import Image

for file in sys.argv[1:]:
    try:
        picture = Image.open(file).convert("RGB")
    except (OSError, SyntaxError):
        sys.stdout.buffer.write(struct.pack("<II", 0, 0))
        continue
    sys.stdout.buffer.write(struct.pack("<II", *picture.size) + picture.tobytes())
