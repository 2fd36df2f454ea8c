"""Recipe of the unusual and damaged images of this folder, and of `expected.safetensors`.

    python tests/golden/images/make.py

Packages: `../requirements.txt`. The images are the same bytes in every run.

`<file name>` in expected.safetensors is `ImageOps.exif_transpose(Image.open(f)).convert("RGB")`,
[H, W, 3] u8, and absent for files that must be rejected. `resize.<filter>.<width>x<height>` are
Pillow's resizes of `resize.source`, [H, W, 3] u8.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = Path(__file__).parent
PHOTO = Image.open(HERE / "../../photos/coffee.png").convert("RGB")
WIDTH, HEIGHT = 32, 24
SMALL = PHOTO.crop((200, 60, 424, 228)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
expected = {}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bad(name, data):
    """Writes a file that must be rejected."""
    (HERE / name).write_bytes(data)


def good(name, data, rgb=None):
    """Writes a file that must decode to Pillow's pixels, or to `rgb` where Pillow is known to be wrong."""
    bad(name, data)
    if rgb is None:
        image = ImageOps.exif_transpose(Image.open(HERE / name))
        rgb = np.asarray(image.convert("RGB"))
    expected[name] = np.ascontiguousarray(rgb)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth, colour, rows, interlace=0):
    """Encodes a PNG from filtered rows, for formats that Pillow cannot write."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def rows_of(array):
    """Encodes the rows of a [H, W, C] or [H, W] array, big-endian and with filter type 0."""
    big = array.astype(array.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big)


def adam7(array):
    starts_and_steps = [
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ]
    return b"".join(rows_of(array[y::dy, x::dx]) for x, y, dx, dy in starts_and_steps)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def jpegs():
    base = encoded(SMALL, "JPEG", quality=90)
    odd = SMALL.crop((0, 0, WIDTH - 1, HEIGHT - 1))
    progressive = encoded(SMALL, "JPEG", quality=90, progressive=True)
    good("baseline.jpg", base)
    good("subsampling_444.jpg", encoded(SMALL, "JPEG", quality=90, subsampling=0))
    good("subsampling_422_odd.jpg", encoded(odd, "JPEG", quality=90, subsampling=1))
    good("progressive.jpg", progressive)
    good("restarts.jpg", encoded(SMALL, "JPEG", quality=90, restart_marker_blocks=2))
    good("grey.jpg", encoded(SMALL.convert("L"), "JPEG", quality=90))
    good("rgb_adobe.jpg", encoded(SMALL, "JPEG", quality=90, keep_rgb=True))
    good("trailing_garbage.jpg", base + b"\xff\xd8garbage" * 9)
    for orientation in range(1, 9):
        good(f"exif_{orientation}.jpg", encoded(SMALL, "JPEG", quality=90, exif=exif(orientation)))
    four_channels()
    bad("truncated.jpg", base[: len(base) - 100])
    bad("truncated_end.jpg", base[:-2])
    bad("truncated_progressive.jpg", progressive[:-100])
    frame = base.index(b"\xff\xc0")
    bad("huge.jpg", base[: frame + 5] + b"\xff\xff\xff\xff" + base[frame + 9 :])


def four_channels():
    data = bytearray(encoded(SMALL.convert("CMYK"), "JPEG", quality=90))
    good("cmyk.jpg", bytes(data))
    start = data.index(b"Adobe") - 4
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    good("cmyk_without_adobe.jpg", bytes(data[:start] + data[start + 2 + length :]))
    # The same coefficients read as YCCK: only the transform byte of the Adobe segment differs.
    data[start + 15] = 2
    good("ycck.jpg", bytes(data))


def pngs():
    array = np.asarray(SMALL)
    wide = (array.astype(np.uint16) * 257 - 100 * (array > 100)).astype(np.uint16)
    good("rgb.png", encoded(SMALL, "PNG"))
    good("rgb16.png", png(16, 2, rows_of(wide)))
    high = (wide[:, :, 1] >> 8).astype(np.uint8)
    good("grey16.png", png(16, 0, rows_of(wide[:, :, 1])), np.repeat(high[:, :, None], 3, axis=2))
    rgba = np.dstack([array, array[:, :, 0]])
    good("rgba.png", encoded(Image.fromarray(rgba), "PNG"))
    good("rgba16.png", png(16, 6, rows_of(rgba.astype(np.uint16) * 257)))
    good("grey_alpha.png", encoded(Image.fromarray(rgba).convert("LA"), "PNG"))
    good("grey.png", encoded(SMALL.convert("L"), "PNG"))
    good("bilevel.png", encoded(SMALL.convert("1"), "PNG"))
    palette = SMALL.quantize(60)
    good("palette.png", encoded(palette, "PNG"))
    good("palette_transparent.png", encoded(palette, "PNG", transparency=7))
    good("palette_4_bits.png", encoded(SMALL.quantize(12), "PNG", bits=4))
    good("colour_key.png", encoded(SMALL, "PNG", transparency=tuple(int(v) for v in array[0, 0])))
    good("interlaced.png", png(8, 2, adam7(array), interlace=1))
    good("exif_6.png", encoded(SMALL, "PNG", exif=exif(6)))
    good("1x4000.png", encoded(PHOTO.resize((1, 4000)), "PNG"))
    good("4000x1.png", encoded(PHOTO.resize((4000, 1)), "PNG"))
    good("1x1.png", encoded(SMALL.resize((1, 1)), "PNG"))
    data = encoded(SMALL, "PNG")
    bad("truncated.png", data[: len(data) * 2 // 3])
    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    bad("huge.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))


def others():
    frames = [SMALL, SMALL.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ImageOps.invert(SMALL)]
    rgba = Image.fromarray(np.dstack([np.asarray(SMALL), np.asarray(SMALL)[:, :, 0]]))
    many = {"save_all": True, "append_images": frames[1:], "duration": 50}
    good("animated.gif", encoded(frames[0], "GIF", **many))
    good("still.gif", encoded(SMALL.quantize(60), "GIF"))
    good("transparent.gif", encoded(SMALL.quantize(60), "GIF", transparency=7))
    for name, options in [("offset_frame.gif", {}), ("offset_transparent.gif", {"transparency": 7})]:
        # A canvas of 44x32 around the frame at (5, 3).
        gif = bytearray(encoded(SMALL.quantize(60), "GIF", **options))
        place = gif.index(b"\x2c" + struct.pack("<HHHH", 0, 0, WIDTH, HEIGHT))
        gif[6:10] = struct.pack("<HH", 44, 32)
        gif[place + 1 : place + 5] = struct.pack("<HH", 5, 3)
        good(name, bytes(gif))
    # The frame exceeds its canvas, so decoders enlarge the canvas.
    gif = bytearray(encoded(SMALL.quantize(60), "GIF"))
    gif[6:10] = struct.pack("<HH", 20, 30)
    good("frame_over_canvas.gif", bytes(gif))
    good("interlaced.gif", encoded(SMALL.quantize(60), "GIF", interlace=1))
    good("animated.webp", encoded(frames[0], "WEBP", lossless=True, **many))
    good("lossless.webp", encoded(SMALL, "WEBP", lossless=True))
    good("lossless_alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True))
    good("lossy.webp", encoded(SMALL, "WEBP", quality=80))
    good("lossy_alpha.webp", encoded(rgba, "WEBP", quality=80, exact=True))
    good("exif_8.webp", encoded(SMALL, "WEBP", lossless=True, exif=exif(8)))
    good("rgb.bmp", encoded(SMALL, "BMP"))
    good("palette.bmp", encoded(SMALL.quantize(60), "BMP"))
    for name, options in [("gif", {}), ("webp", {"quality": 80}), ("bmp", {})]:
        data = encoded(SMALL, name, **options)
        bad(f"truncated.{name}", data[: len(data) * 2 // 3])
    data = encoded(SMALL, "WEBP", lossless=True)
    bad("truncated_lossless.webp", data[: len(data) * 2 // 3])
    bad("empty", b"")
    bad("text.txt", b"BMI tables and other texts are not pictures.\n")
    bad("picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n')


def resizes():
    source = PHOTO.crop((150, 100, 191, 131))
    expected["resize.source"] = np.asarray(source)
    for name in ("bilinear", "bicubic"):
        for size in [(41, 31), (41, 20), (23, 31), (1, 1), (7, 5), (30, 23), (40, 30), (67, 44), (1, 90)]:
            resized = source.resize(size, Image.Resampling[name.upper()])
            expected[f"resize.{name}.{size[0]}x{size[1]}"] = np.asarray(resized)


jpegs()
pngs()
others()
resizes()
save_file(expected, HERE / "expected.safetensors")
