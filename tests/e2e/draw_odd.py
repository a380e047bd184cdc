"""Draws pictures of every odd kind, each with a plain twin of the pixels that should be seen, and things that are none.

Run by the executor's interpreter, which has Pillow: `draw_odd.py FOLDER`.
"""

import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIZE = (160, 120)
folder = Path(sys.argv[1])


def drawn(seed: int, size: tuple[int, int] = SIZE) -> Any:
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        box = (x, y, x + rng.randrange(size[0] // 8, size[0] // 2), y + rng.randrange(size[1] // 8, size[1] // 2))
        draw.rectangle(box, fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture


def odd(name: str, picture: Any, twin: Any, **options: Any) -> None:
    picture.save(folder / name, **options)
    twin.convert("RGB").save(folder / f"{name}.twin.png")


def rotated(name: str, seed: int, orientation: int, undo: Any, **options: Any) -> None:
    upright = drawn(seed)
    exif = Image.Exif()
    exif[0x0112] = orientation
    odd(name, upright.transpose(undo), upright, exif=exif, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(side: int) -> bytes:
    """Zeros that unpack to `side` x `side` pixels."""
    squeezed = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(squeezed.compress(row) for _ in range(side)) + squeezed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb_jpeg(side: int) -> bytes:
    """A small JPEG that says it is large."""
    data = bytearray((folder / "plain.jpg").read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def bomb_gif(side: int) -> bytes:
    """One pixel of screen, and a frame that is far larger."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00;"


# --- odd, and right ---
rotated("rotated.png", 1, 6, Image.Transpose.ROTATE_90)
rotated("rotated.jpg", 2, 3, Image.Transpose.ROTATE_180, quality=95)
rotated("mirrored.jpg", 3, 2, Image.Transpose.FLIP_LEFT_RIGHT, quality=95)
odd("cmyk.jpg", drawn(4).convert("CMYK"), drawn(4), quality=95)
odd("cmyk.tiff", drawn(5).convert("CMYK"), drawn(5).convert("CMYK").convert("RGB"))
grey = drawn(6).convert("L")
sixteen = Image.new("I;16", SIZE)
sixteen.putdata([value << 8 | 0x7F for value in grey.getdata()])
odd("grey16.png", sixteen, grey)
frames = [drawn(seed).quantize(16) for seed in (7, 8, 9)]
odd("animated.gif", frames[0], frames[0], save_all=True, append_images=frames[1:], duration=100)
odd("animated.webp", drawn(10), drawn(10), save_all=True, append_images=[drawn(11)], lossless=True)
odd("pages.tiff", drawn(12), drawn(12), save_all=True, append_images=[drawn(13)])
alpha = drawn(14).convert("RGBA")
alpha.putalpha(Image.linear_gradient("L").resize(SIZE))
white = Image.new("RGBA", SIZE, "white")
odd("alpha.png", alpha, Image.alpha_composite(white, alpha))
odd("bits.png", drawn(15).convert("1"), drawn(15).convert("1"))
odd("lies.jpg", drawn(16), drawn(16), format="PNG")
odd("large.png", drawn(17, (4400, 4400)), drawn(17, (4400, 4400)), compress_level=1)

# --- wrong ---
drawn(20).save(folder / "plain.jpg", quality=90)
drawn(21).save(folder / "plain.png")
whole = (folder / "plain.jpg").read_bytes()
broken = bytearray((folder / "plain.png").read_bytes())
broken[len(broken) // 2] ^= 0xFF
for name, data in {
    "empty.jpg": b"",
    "letter.jpg": b"a letter to a friend, named like a picture",
    "page.png": b"<!doctype html><title>404</title>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "noise.jpg": random.Random(0).randbytes(5000),
    "cut.jpg": whole[: len(whole) // 2],
    "broken.png": bytes(broken),
    "bomb.png": bomb_png(20_000),
    "bomb.jpg": bomb_jpeg(20_000),
    "bomb.gif": bomb_gif(20_000),
}.items():
    (folder / name).write_bytes(data)
for name in ("plain.jpg", "plain.png"):
    (folder / name).unlink()
