"""Decode the image files given as arguments with Pillow, and write for each of them to stdout: width and height
as little-endian u32, then RGB bytes. Writes width and height 0 for a file that Pillow rejects. Exits with 77 if
Pillow is missing."""

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
