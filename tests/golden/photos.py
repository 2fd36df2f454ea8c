"""Recipe of `photos.json`: the SHA-256 of the RGB pixels that Pillow decodes from the JPEG files of `tests/photos`.

    python tests/golden/photos.py [--write]
"""

import hashlib
import json

from PIL import Image

import fixture


def digest(path):
    return hashlib.sha256(Image.open(path).convert("RGB").tobytes()).hexdigest()


if __name__ == "__main__":
    digests = {path.name: digest(path) for path in sorted(fixture.PHOTOS.glob("*.jpg"))}
    fixture.text("photos.json", json.dumps(digests, indent=2) + "\n")
