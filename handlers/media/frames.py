"""How many frames a picture has, without decoding them: the cost is bounded by the cap, whatever the file claims."""

from __future__ import annotations

import struct
from typing import BinaryIO


def count_frames(file: BinaryIO, kind: str, cap: int) -> int | None:
    """Frames of a GIF, PNG, WebP or TIFF, at most `cap`; None where the structure cannot be followed.

    `kind` is a name of `sniff.READ`; other kinds have one. Leaves the file somewhere else.
    """
    counter = {"GIF": _gif, "PNG": _png, "WEBP": _webp, "TIFF": _tiff}.get(kind)
    if counter is None:
        return 1
    file.seek(0)
    try:
        return max(1, min(cap, counter(file, cap)))
    except (struct.error, EOFError):
        return None  # the decoder says what is wrong with it


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _gif(file: BinaryIO, cap: int) -> int:
    """Image descriptors (0x2C) among the blocks. GIF89a specification, 1990."""
    frames = 0
    _palette(file, _read(file, 13)[10])
    while frames < cap and (introducer := file.read(1)) not in {b"", b";"}:
        if introducer == b",":
            frames += 1
            _palette(file, _read(file, 9)[8])
        _read(file, 1)  # of an image the size of its codes, of an extension its label
        while length := _read(file, 1)[0]:
            file.seek(length, 1)
    return frames


def _palette(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _png(file: BinaryIO, _cap: int) -> int:
    """What the animation control chunk says, which must come before the pixels. PNG specification, third edition."""
    file.seek(8)
    while True:
        length, name = struct.unpack(">I4s", _read(file, 8))
        if name == b"acTL":
            return int(struct.unpack(">I", _read(file, 4))[0])
        if name in {b"IDAT", b"IEND"}:
            return 1
        file.seek(length + 4, 1)


def _webp(file: BinaryIO, cap: int) -> int:
    """ANMF chunks of the RIFF container; a still picture has none. WebP Container Specification."""
    frames = 0
    file.seek(12)
    while frames < cap and len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        frames += name == b"ANMF"
        file.seek(length + (length & 1), 1)
    return frames


def _tiff(file: BinaryIO, cap: int) -> int:
    """The chain of image file directories; one that turns back on itself ends there. TIFF 6.0; BigTIFF."""
    order = "<" if _read(file, 4)[:2] == b"II" else ">"
    file.seek(2)
    big = struct.unpack(order + "H", _read(file, 2))[0] == 43
    file.seek(8 if big else 4)
    pointer, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    seen: set[int] = set()
    while len(seen) < cap:
        offset = struct.unpack(order + pointer, _read(file, struct.calcsize(pointer)))[0]
        if offset == 0 or offset in seen:
            break
        seen.add(offset)
        file.seek(offset)
        entries = struct.unpack(order + count, _read(file, struct.calcsize(count)))[0]
        file.seek(min(entries * entry, 1 << 40), 1)
    return len(seen)
