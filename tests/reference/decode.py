"""Writes images as Pillow decodes them, one after the other: width and height as two little-endian u32,
then RGB bytes; 0 and 0 for an image that Pillow rejects. Without Pillow, the exit status is 77."""

import struct
import sys

try:
    from PIL import Image
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

for file in sys.argv[1:]:
    try:
        image = Image.open(file).convert("RGB")
    except (OSError, SyntaxError):
        sys.stdout.buffer.write(struct.pack("<II", 0, 0))
        continue
    sys.stdout.buffer.write(struct.pack("<II", *image.size) + image.tobytes())
