"""Write the unusual and damaged images of this folder, and `expected.safetensors` with the pixels of the valid ones.

    python tests/golden/images/make.py

Requires the packages of `../requirements.txt`. Every run writes the same bytes.

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
    """Write a file that decoders must reject."""
    (HERE / name).write_bytes(data)


def good(name, data, rgb=None):
    """Write a file that must decode to `rgb` or, if that is None, to Pillow's pixels. Pass `rgb` where Pillow is wrong."""
    bad(name, data)
    if rgb is None:
        image = ImageOps.exif_transpose(Image.open(HERE / name))
        rgb = np.asarray(image.convert("RGB"))
    expected[name] = np.ascontiguousarray(rgb)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth, colour, rows, interlace=0):
    """Encode a PNG from filtered rows, for formats that Pillow cannot write."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def rows_of(array):
    """Return the rows of a [H, W, C] or [H, W] array as PNG stores them: big-endian, each after its filter type 0."""
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
    # A YCCK file with the same coefficients: only the transform byte of the Adobe segment differs.
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
        # The canvas has 44x32 pixels, and the frame is at (5, 3).
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
    # Pillow cannot write several partitions, so partitions.webp was made once with libwebp's WebPConfig: 64 x 160 pixels,
    # quality 5, method 2, 4 segments, 2^3 partitions.
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
    bad("text.txt", b"BMI tables and other texts are not images.\n")
    bad("picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n')


def segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def tiff(kind, value, count=1, order="<"):
    """Return an EXIF block with the orientation as its only entry; `kind` is the TIFF type of its value."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    return head + struct.pack(order + "HHHL", 1, 0x0112, kind, count) + value + b"\0\0\0\0"


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'


def field_jpegs():
    """Write JPEG files of kinds that image servers were reported to decode wrongly."""
    base, progressive = encoded(SMALL, "JPEG", quality=90), encoded(SMALL, "JPEG", quality=90, progressive=True)

    def before(data, marker, extra, n=0):
        at = -1
        for _ in range(n + 1):
            at = data.index(bytes([0xFF, marker]), at + 1)
        return data[:at] + extra + data[at:]

    for name, marker in [("dht", 0xC4), ("dqt", 0xDB)]:
        good(f"no_tables_{name}.jpg", before(base, 0xDA, segment(marker, b"")))
        good(f"no_tables_{name}_progressive.jpg", before(progressive, 0xDA, segment(marker, b""), 2))

    def with_app1(*bodies):
        return base[:2] + b"".join(segment(0xE1, body) for body in bodies) + base[2:]

    six, eight = tiff(3, b"\6\0\0\0"), tiff(3, b"\x08\0\0\0")
    head = b"Exif\0\0"
    good("exif_long.jpg", with_app1(head + tiff(4, b"\6\0\0\0")))
    good("exif_long_big_endian.jpg", with_app1(head + tiff(4, b"\0\0\0\6", order=">")))
    good("exif_signed_byte.jpg", with_app1(head + tiff(6, b"\6\0\0\0")))
    good("exif_untyped.jpg", with_app1(head + tiff(7, b"\6\0\0\0")))
    good("exif_value_9.jpg", with_app1(head + tiff(3, b"\x09\0\0\0")))
    good("exif_two_segments.jpg", with_app1(head + six, head + eight))
    good("exif_split.jpg", with_app1(head + six[:11], head + six[11:]))
    good("exif_garbage.jpg", with_app1(head + b"no TIFF header"))
    good("xmp_6.jpg", with_app1(b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    good("xmp_6_exif_1.jpg", with_app1(b"http://ns.adobe.com/xap/1.0/\0" + XMP, head + tiff(3, b"\1\0\0\0")))


def field_pngs():
    data = encoded(SMALL, "PNG")
    idat, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4

    def at(place, *chunks):
        return data[:place] + b"".join(chunks) + data[place:]

    six = chunk(b"eXIf", tiff(3, b"\6\0\0\0"))
    good("exif_after_idat.png", at(end, six))
    # Pillow raises; a viewer shows the image as it is stored.
    good("exif_malformed.png", at(idat, chunk(b"eXIf", b"no TIFF header")), np.asarray(SMALL))
    good("xmp_6.png", at(idat, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)))
    good("profile_not_zlib.png", at(idat, chunk(b"iCCP", b"profile\0\0not zlib")))
    good("texts.png", at(idat, *[chunk(b"tEXt", b"Comment\0text")] * 9))
    body = data[idat + 8 : end - 4]
    pieces = b"".join(chunk(b"IDAT", body[i : i + 1]) for i in range(len(body)))
    good("idat_in_bytes.png", data[:idat] + pieces + data[end:])
    frames = [SMALL, ImageOps.invert(SMALL)]
    good("animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50))
    array = np.asarray(SMALL)
    wide = np.dstack([array, array[:, :, :1]]).astype(np.uint16) * 257 - 3
    good("interlaced_rgba16.png", png(16, 6, adam7(wide), interlace=1))
    good("interlaced_grey_alpha.png", png(8, 4, adam7(array[:, :, :2]), interlace=1))
    good("interlaced_grey.png", png(8, 0, adam7(array[:, :, 1]), interlace=1))
    # A palette of 40 colors, with indices up to 59.
    indices = np.asarray(SMALL.quantize(60))
    colors = bytes(SMALL.quantize(60).getpalette()[:120])
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"PLTE", colors) + chunk(b"IDAT", zlib.compress(rows_of(indices), 9))
    good("palette_short.png", b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def riff(*chunks):
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def field_webps():
    def u24(value):
        return struct.pack("<I", value)[:3]

    def canvas(flags, width=WIDTH, height=HEIGHT):
        return b"VP8X", bytes([flags, 0, 0, 0]) + u24(width - 1) + u24(height - 1)

    def frame(data, left=0, top=0):
        inner = data[12:]
        return b"ANMF", u24(left // 2) + u24(top // 2) + u24(WIDTH - 1) + u24(HEIGHT - 1) + u24(50) + b"\0" + inner

    lossy, lossless = encoded(SMALL, "WEBP", quality=80), encoded(SMALL, "WEBP", lossless=True)
    vp8, vp8l = (b"VP8 ", lossy[20:]), (b"VP8L", lossless[20 : 20 + struct.unpack("<I", lossless[16:20])[0]])
    good("flags_without_chunks.webp", riff(canvas(0x3C), vp8))
    good("extended_lossless.webp", riff(canvas(0x00), vp8l))
    good("exif_long.webp", riff(canvas(0x08), vp8, (b"EXIF", tiff(4, b"\6\0\0\0"))))
    good("xmp_6.webp", riff(canvas(0x04), vp8, (b"XMP ", XMP)))
    good("unknown_chunks.webp", riff(canvas(0x00), (b"abcd", b"odd"), vp8, (b"efgh", b"")) + b"behind the RIFF")
    rgba = Image.fromarray(np.dstack([np.asarray(SMALL), np.asarray(SMALL)[:, :, 0]]))
    frames = {"save_all": True, "append_images": [ImageOps.invert(SMALL)], "duration": 50}
    good("animated_lossy.webp", encoded(SMALL, "WEBP", quality=80, **frames))
    good("animated_alpha.webp", encoded(rgba, "WEBP", quality=80, **frames))
    anim = (b"ANIM", struct.pack("<IH", 0xFF2040FF, 0))
    good("animated_offset.webp", riff(canvas(0x12, 44, 32), anim, frame(lossless, 6, 4), frame(lossy, 0, 0)))
    bad("huge_inside.webp", riff(canvas(0x00), (b"VP8 ", lossy[20:26] + struct.pack("<HH", 9000, 9000) + lossy[30:])))
    bad("truncated_frame_header.webp", riff(canvas(0x12, 31, 24), anim, frame(lossy)))


def field_gifs():
    data = encoded(SMALL.quantize(60), "GIF")
    comma = data.index(b"\x2c" + struct.pack("<HHHH", 0, 0, WIDTH, HEIGHT))
    head, colors, image = data[:13], data[13 : 13 + 3 * 64], data[comma:]

    def gif(palette=colors, before=b"", screen=(WIDTH, HEIGHT), image=image):
        flags = 0x80 | ((len(palette) // 3).bit_length() - 2) if palette else 0
        return b"GIF89a" + struct.pack("<HHBBB", *screen, flags, 0, 0) + palette + before + image

    good("screen_0x0.gif", gif(screen=(0, 0)))
    good("screen_1x1.gif", gif(screen=(1, 1)))
    good("unknown_extension.gif", gif(before=b"!\x77\x05hello\x02xy\0"))
    good("empty_comment.gif", gif(before=b"!\xfe\0"))
    good("stray_bytes.gif", gif(before=b"\0\0\x11"))
    good("no_palette.gif", gif(palette=b""))
    good("short_palette.gif", gif(palette=colors[: 3 * 32]))
    good("short_grey_palette.gif", gif(palette=bytes(i // 3 for i in range(3 * 16))))
    good("grey.gif", encoded(SMALL.convert("L"), "GIF"))
    local = image[:9] + bytes([0x85]) + colors + image[10:]
    good("local_palette.gif", gif(palette=b"", image=local))
    good("version_87a.gif", b"GIF87a" + gif()[6:])
    many = encoded(SMALL, "GIF", save_all=True, append_images=[ImageOps.invert(SMALL)], duration=50)
    good("second_frame_cut.gif", many[:-90])
    bad("truncated_no_frame.gif", head + colors + b";")
    bad("truncated_frame_0x0.gif", gif(image=image[:5] + b"\0\0\0\0" + image[9:]))


def field_bmps():
    array = np.asarray(SMALL)
    indices = np.asarray(SMALL.quantize(60))
    colors = np.array(SMALL.quantize(60).getpalette()[:180], np.uint8).reshape(60, 3)

    def quads(palette):
        return b"".join(bytes([b, g, r, 0]) for r, g, b in palette)

    def rows(data, top_down=False):
        lines = [row.tobytes() for row in data]
        lines = [line + b"\0" * (-len(line) % 4) for line in lines]
        return b"".join(lines if top_down else lines[::-1])

    def bmp(bits, body, kind=0, palette=b"", more=b"", height=HEIGHT, used=0, reserved=0, offset=None, size=None):
        info = struct.pack("<IiiHHIIiiII", size or 40, WIDTH, height, 1, bits, kind, len(body), 0, 0, used, 0)
        start = 14 + len(info) + len(more) + len(palette)
        place = start if offset is None else offset
        return b"BM" + struct.pack("<III", start + len(body), reserved, place) + info + more + palette + body

    bgr = array[:, :, ::-1]
    bgrx = np.dstack([bgr, array[:, :, 0] * 0])
    r, g, b = (array[:, :, i].astype(np.uint16) for i in range(3))
    good("reserved_set.bmp", bmp(24, rows(bgr), reserved=0x12345678))
    good("offset_0.bmp", bmp(24, rows(bgr), offset=0))
    good("top_down.bmp", bmp(24, rows(bgr, True), height=-HEIGHT))
    good("bgrx.bmp", bmp(32, rows(bgrx)))
    good("rgb555.bmp", bmp(16, rows((r >> 3) << 10 | (g >> 3) << 5 | b >> 3)))
    word = (r >> 3) << 11 | (g >> 2) << 5 | b >> 3
    good("rgb565.bmp", bmp(16, rows(word), 3, more=struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    good("bgra_v5.bmp", bmp(32, rows(np.dstack([bgr, array[:, :, 0]])), 3, more=masks + b"BGRs" + b"\0" * 64, size=124))
    good("xbgr.bmp", bmp(32, rows(bgrx[:, :, [3, 0, 1, 2]]), 3, more=struct.pack("<III", 0xFF << 24, 0xFF << 16, 0xFF << 8)))
    good("few_colors.bmp", bmp(8, rows(indices.astype(np.uint8)), palette=quads(colors), used=60))
    good("short_palette.bmp", bmp(8, rows(indices.astype(np.uint8)), palette=quads(colors[:30]), used=30))
    good("offset_at_palette.bmp", bmp(8, rows(indices.astype(np.uint8)), palette=quads(colors), used=60, offset=54))
    low = indices % 16
    nibbles = (low[:, ::2] << 4 | low[:, 1::2]).astype(np.uint8)
    good("bits_4.bmp", bmp(4, rows(nibbles), palette=quads(colors[:16])))
    one = np.packbits(indices % 2, axis=1)
    good("bits_1.bmp", bmp(1, rows(one), palette=quads(colors[20:22])))
    good("bits_1_black_white.bmp", bmp(1, rows(one), palette=quads([(0, 0, 0), (255, 255, 255)])))

    def runs(four_bits):
        body = b""
        for row in (low if four_bits else indices)[::-1]:
            row = [int(v) for v in row]
            if four_bits:
                packed = bytes(a << 4 | b for a, b in zip(row[:10:2], row[1:10:2]))
                literal = packed + b"\0" * (len(packed) % 2)
                runs = b"".join(bytes([1, v << 4]) for v in row[10:])
            else:
                literal = bytes(row[:9]) + b"\0"
                runs = b"".join(bytes([1, v]) for v in row[9:])
            body += bytes([0, 10 if four_bits else 9]) + literal + runs + b"\0\0"
        return body

    good("rle8.bmp", bmp(8, runs(False) + b"\0\1", 1, quads(colors), used=60))
    good("rle4.bmp", bmp(4, runs(True) + b"\0\1", 2, quads(colors[:16])))
    # A run over two columns, a step of 3 columns and 2 rows, and rows that end early.
    steps = b"\x05\x07\0\0" * 4 + b"\0\2\3\2" + b"\x09\x0b" + b"\1\2\0\0" * 30
    good("rle8_steps.bmp", bmp(8, steps, 1, quads(colors), used=60))
    bad("truncated_end_mark.bmp", bmp(8, b"\x05\x07\0\1", 1, quads(colors), used=60))
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    body = rows(bgr)
    good("os2_24.bmp", b"BM" + struct.pack("<III", 26 + len(body), 0, 26) + core + body)
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 8)
    palette = b"".join(bytes([b, g, r]) for r, g, b in colors).ljust(768, b"\0")
    body = rows(indices.astype(np.uint8))
    good("os2_8.bmp", b"BM" + struct.pack("<III", 26 + 768 + len(body), 0, 26 + 768) + core + palette + body)


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
field_jpegs()
field_pngs()
field_webps()
field_gifs()
field_bmps()
resizes()
save_file(expected, HERE / "expected.safetensors")
