"""Writes a picture as Pillow decodes it: width and height as two little-endian u32, then RGB bytes."""

import struct
import sys

from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB")
sys.stdout.buffer.write(struct.pack("<II", *picture.size) + picture.tobytes())
